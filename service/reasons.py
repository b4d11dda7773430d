"""Why a component is forecast what it is, in words: a line for each item of evidence, in the languages we speak."""

from __future__ import annotations

from collections.abc import Mapping

from service.advice import Words

GROUPS: Mapping[str, Words] = {
    "velocity": Words("振动速度", "vibration"),
    "high": Words("振动速度高值", "vibration at its highest"),
    "acceleration": Words("振动加速度", "vibration acceleration"),
    "peak": Words("振动加速度峰值", "acceleration peaks"),
    "impulse": Words("冲击信号", "shock signs of bearing and gear"),
    "temperature": Words("温升", "temperature rise"),
    "current": Words("驱动电流", "drive current"),
    "others": Words("其他部件的迹象", "signs on other components"),
    "history": Words("检修记录、使用与数据情况", "repairs, age, duty and data"),
}
"""Every group of `models.explain.GROUPS`."""

COMPONENTS: Mapping[str, Words] = {
    "motor": Words("电动机", "motor"),
    "gearbox": Words("减速器", "gearbox"),
    "brake": Words("制动器", "brake"),
    "leaf": Words("门叶", "leaf"),
    "screw": Words("螺杆", "screw"),
    "drum": Words("卷筒", "drum"),
    "hydraulic": Words("液压站", "hydraulic unit"),
}

_OF_THE_GATE = ("current", "others", "history")


def reason(item: Mapping[str, object]) -> Words:
    """Say one item of an alert's evidence: what it is, against its own baseline at such loads, and what peers show.

    Examples
    --------
    >>> item = {"feature": "motor.velocity", "change": 1.8, "change_unit": "x", "peer_low": 0.9, "peer_high": 1.2}
    >>> reason(item).en
    'motor vibration 1.8 × what this gate showed at such loads; peers 0.9–1.2 ×'
    >>> reason(item | {"value": 2.941, "baseline": 1.634, "unit": "mm/s"}).zh
    '电动机振动速度为本闸门同等荷载下的 1.8 倍（2.94 mm/s，基线 1.63 mm/s）；同类闸门 0.9–1.2 倍'
    """
    component, _, group = str(item.get("feature", "")).rpartition(".")
    name = GROUPS.get(group, Words(group, group))
    if group not in _OF_THE_GATE:
        whose = COMPONENTS.get(component, Words(component, component))
        name = Words(f"{whose.zh}{name.zh}", f"{whose.en} {name.en}".strip())
    change, low, high = item.get("change"), item.get("peer_low"), item.get("peer_high")
    if not isinstance(change, float):
        return name
    value, baseline = item.get("value"), item.get("baseline")
    unit = "" if item.get("unit") == "1" else f" {item.get('unit')}"
    zh, en = "", ""
    if isinstance(value, float) and isinstance(baseline, float):
        zh, en = f"（{value:.3g}{unit}，基线 {baseline:.3g}{unit}）", f" ({value:.3g}{unit}, baseline {baseline:.3g})"
    if item.get("change_unit") == "K":
        zh, en = f"比本闸门同等荷载下{_kelvin(change).zh}{zh}", f"{_kelvin(change).en} what this gate showed at such loads{en}"
    else:
        zh, en = f"为本闸门同等荷载下的 {change:.3g} 倍{zh}", f"{change:.3g} × what this gate showed at such loads{en}"
    if isinstance(low, float) and isinstance(high, float):
        if item.get("change_unit") == "K":
            zh, en = f"{zh}；同类闸门 {low:+.1f} 至 {high:+.1f} K", f"{en}; peers {low:+.1f} to {high:+.1f} K"
        else:
            zh, en = f"{zh}；同类闸门 {low:.3g}–{high:.3g} 倍", f"{en}; peers {low:.3g}–{high:.3g} ×"
    return Words(f"{name.zh}{zh}", f"{name.en} {en}")


def _kelvin(change: float) -> Words:
    side = Words("高", "above") if change >= 0 else Words("低", "below")
    return Words(f"{side.zh} {abs(change):.1f} K", f"{abs(change):.1f} K {side.en}")
