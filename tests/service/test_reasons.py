"""Evidence in words: every group in both languages, with numbers where there are some."""

import pytest

from models.explain import GROUPS
from pipeline.features import COMPONENT_KINDS
from service import reasons
from service.reasons import reason


def test_every_group_and_kind_of_component_has_words_in_both_languages() -> None:
    assert set(reasons.GROUPS) == set(GROUPS)
    assert set(reasons.COMPONENTS) == set(COMPONENT_KINDS)
    for words in (*reasons.GROUPS.values(), *reasons.COMPONENTS.values()):
        assert not words.zh.isascii()
        assert words.en.isascii()


@pytest.mark.parametrize(
    ("item", "zh", "en"),
    [
        (
            {"feature": "gearbox.temperature", "change": -6.24, "change_unit": "K", "peer_low": -1.0, "peer_high": 0.84},
            "减速器温升比本闸门同等荷载下低 6.2 K；同类闸门 -1.0 至 +0.8 K",
            "gearbox temperature rise 6.2 K below what this gate showed at such loads; peers -1.0 to +0.8 K",
        ),
        (
            {"feature": "leaf.current", "change": 1.31, "change_unit": "x", "value": 26.2, "baseline": 20.0, "unit": "A"},
            "驱动电流为本闸门同等荷载下的 1.31 倍（26.2 A，基线 20 A）",
            "drive current 1.31 × what this gate showed at such loads (26.2 A, baseline 20)",
        ),
        (
            {"feature": "motor.impulse", "change": 1.62, "change_unit": "x", "value": 4.86, "baseline": 3.0, "unit": "1"},
            "电动机冲击信号为本闸门同等荷载下的 1.62 倍（4.86，基线 3）",
            "motor shock signs of bearing and gear 1.62 × what this gate showed at such loads (4.86, baseline 3)",
        ),
        ({"feature": "brake.history", "change": None}, "检修记录、使用与数据情况", "repairs, age, duty and data"),
        ({"feature": "pump 2.peak"}, "pump 2振动加速度峰值", "pump 2 acceleration peaks"),
    ],
)
def test_a_reason_says_what_it_is_against_its_own_baseline_and_its_peers(item: dict[str, object], zh: str, en: str) -> None:
    assert (reason(item).zh, reason(item).en) == (zh, en)
