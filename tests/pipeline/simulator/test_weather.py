from datetime import date

import numpy as np
import pandas as pd
import pytest

from pipeline.simulator.streams import Layer, stream
from pipeline.simulator.weather import DAY_S, Weather, ambient_at, make_weather, sun_at


@pytest.fixture(scope="module")
def century() -> tuple[pd.DatetimeIndex, Weather]:
    weather = make_weather(stream(1, Layer.WEATHER, 0), date(1930, 1, 1), 60 * 365)
    return pd.date_range("1930-01-01", periods=weather.days, freq="D"), weather


def test_rain_is_that_of_shenzhen(century: tuple[pd.DatetimeIndex, Weather]) -> None:
    days, weather = century
    years = weather.days / 365.0

    flood_season = (days.month >= 4) & (days.month <= 9)

    assert weather.rain_mm.sum() / years == pytest.approx(1924, rel=0.1)
    assert weather.rain_mm[flood_season].sum() / weather.rain_mm.sum() == pytest.approx(0.82, rel=0.1)
    assert 7 <= (weather.rain_mm >= 50).sum() / years <= 11
    assert weather.flood.mean() == pytest.approx(0.30, rel=0.1)
    assert np.quantile(weather.flood, 0.95) == pytest.approx(1.10, rel=0.15)


def test_heat_is_that_of_shenzhen(century: tuple[pd.DatetimeIndex, Weather]) -> None:
    days, weather = century

    assert weather.ambient_c[days.month == 1].mean() == pytest.approx(15.4, rel=0.1)
    assert weather.ambient_c[days.month == 7].mean() == pytest.approx(28.8, rel=0.1)
    assert weather.ambient_c.mean() == pytest.approx(22.5, rel=0.1)


def test_the_day_is_warmest_at_three_in_the_afternoon_and_the_sun_shines_on_dry_days_only() -> None:
    dry, wet = np.zeros(4), np.full(4, 20.0)
    hours_s = np.arange(24) * 3600.0 + DAY_S

    air_c = ambient_at(Weather(np.full(4, 20.0), dry, dry), hours_s)

    assert int(np.argmax(air_c)) == 7  # 07:00 UTC is 15:00 in Shenzhen
    assert air_c.max() - air_c.min() == pytest.approx(8.0)
    assert sun_at(Weather(dry, dry, dry), hours_s, 5.0).max() == pytest.approx(5.0)
    assert sun_at(Weather(dry, wet, dry), hours_s, 5.0).max() == 0.0
