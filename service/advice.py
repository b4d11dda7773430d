"""What a crew should look at first, per failure mode and component, in the languages we speak. No decision is made here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    """One text in the languages we speak; `body` picks the receiver's."""

    zh: str
    en: str

    def in_locale(self, locale: str) -> str:
        """The text for a locale: Chinese for any `zh…`, English for all others."""
        return self.zh if locale.startswith("zh") else self.en


@dataclass(frozen=True, slots=True)
class Action:
    """What a crew should do first, with a stable code that a receiver may map to its own work orders."""

    code: str
    text: Words


ACTIONS: Mapping[str, Action] = {
    "motor_bearing": Action(
        "inspect_motor_bearing",
        Words(
            "检查电机驱动端轴承：听音、测温，复测振动加速度；有剥落或异响时更换轴承",
            "Inspect the motor's drive-end bearing: listen, measure temperature and vibration again; "
            "replace it if it is spalled or noisy",
        ),
    ),
    "lubrication": Action(
        "relubricate_bearing",
        Words(
            "检查电机轴承润滑：确认油脂牌号与油量，补脂或换脂；补脂后温度短时升高属正常",
            "Check the motor bearing's grease, its grade and amount; regrease or replace it. "
            "A short temperature rise after regreasing is normal",
        ),
    ),
    "misalignment": Action(
        "check_alignment",
        Words(
            "检查联轴器对中、地脚螺栓和基础；双吊点闸门同时检查两侧是否同步",
            "Check coupling alignment, foundation bolts and footing; on gates with two hoist points also whether they run level",
        ),
    ),
    "winding": Action(
        "test_winding_insulation",
        Words(
            "停机测量电机绕组绝缘电阻和三相电流平衡，检查受潮与通风",
            "Stop the motor; measure winding insulation resistance and phase balance; look for damp and blocked ventilation",
        ),
    ),
    "gear": Action(
        "inspect_gearbox",
        Words(
            "检查减速器：油位、油质与铁屑，打开视孔看齿面点蚀与磨损",
            "Inspect the gearbox: oil level, oil condition and metal debris; look at the tooth flanks for pitting and wear",
        ),
    ),
    "brake_drag": Action(
        "check_brake_release",
        Words(
            "检查制动器松闸间隙、推动器与闸瓦温度，清理锈蚀并调整",
            "Check the brake's release gap, its actuator and lining temperature; remove corrosion and readjust",
        ),
    ),
    "guide_seizure": Action(
        "inspect_guides",
        Words(
            "检查导轮、支铰与门槽：清除泥沙杂物，试运行并观察电流是否随开度升高",
            "Inspect guide wheels, trunnions and slots: clear silt and debris, "
            "move the gate and watch the current along its travel",
        ),
    ),
    "seal_wear": Action(
        "inspect_seals",
        Words(
            "检查底止水与侧止水磨损；避免在引起振动的小开度长时间停留",
            "Inspect bottom and side seals for wear; do not leave the gate long at the small openings where it vibrates",
        ),
    ),
    "nut_wear": Action(
        "inspect_screw_nut",
        Words(
            "检查螺杆与铜螺母：测量间隙，清洁并重新润滑，间隙超限时更换螺母",
            "Inspect screw and bronze nut: measure the play, clean and lubricate; "
            "replace the nut when the play is over its limit",
        ),
    ),
    "pump_wear": Action(
        "inspect_hydraulic_pump",
        Words(
            "检查液压泵与油液：油温、油位、滤芯、泄漏和气蚀噪声",
            "Inspect the hydraulic pump and oil: temperature, level, filter, leakage and the noise of cavitation",
        ),
    ),
    "open_gear": Action(
        "inspect_open_gear",
        Words(
            "检查开式齿轮啮合与润滑，清洁齿面并重新涂脂",
            "Inspect mesh and lubrication of the open gear; clean the teeth and grease them again",
        ),
    ),
    "rope_drum": Action(
        "inspect_rope_and_drum",
        Words(
            "检查钢丝绳断丝、松弛与两侧张力，检查卷筒绳槽与压板",
            "Inspect the wire rope for broken wires, slack and unequal tension, and the drum's grooves and clamps",
        ),
    ),
    "sudden": Action(
        "check_electrics_and_debris",
        Words(
            "检查供电、接触器、限位开关与门槽杂物，手动试运行一次",
            "Check supply, contactors, limit switches and debris in the slots; move the gate once by hand control",
        ),
    ),
}
"""First action per failure mode. A failure mode without a text in both languages cannot be enabled."""

_BY_COMPONENT: Mapping[str, Action] = {
    "motor": Action(
        "inspect_motor",
        Words("检查电机：振动、轴承温度与绕组", "Inspect the motor: vibration, bearing temperature, winding"),
    ),
    "gearbox": ACTIONS["gear"],
    "brake": ACTIONS["brake_drag"],
    "leaf": ACTIONS["guide_seizure"],
    "screw": ACTIONS["nut_wear"],
    "hydraulic": ACTIONS["pump_wear"],
    "drum": ACTIONS["rope_drum"],
}
_ANY = Action(
    "inspect_gate",
    Words("现场检查闸门与启闭机，必要时试运行一次", "Inspect the gate and its hoist on site; move it once where allowed"),
)


def recommended_action(component: str, failure_mode: str) -> Action:
    """What to do first: by failure mode, else by component, else in general."""
    return ACTIONS.get(failure_mode) or _BY_COMPONENT.get(component) or _ANY
