"""Where a segment was trained."""

from scaling.environment import BIT_EXACT_UNDER, differences, environment, visible_cpus


def test_the_environment_names_device_versions_and_commit():
    here = environment()
    assert set(BIT_EXACT_UNDER) <= here.keys()
    assert here["devices"] == 8 and here["cpus"] == visible_cpus() >= 1
    assert here["jax"].count(".") >= 2 and "commit" in here and "dirty" in here


def test_only_what_bit_equality_needs_is_compared():
    here = environment()
    assert differences(here) == []
    assert differences(here | {"commit": "other", "numpy": "0"}) == []
    assert differences(here | {"jaxlib": "0"}) == [f"jaxlib 0 → {here['jaxlib']}"]
