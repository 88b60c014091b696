"""Settings that a campaign began with, whatever the defaults are now."""

from __future__ import annotations

import json

import pytest

from evomerge.errors import ConfigError
from evomerge.optimizers.builtin import KINDS
from evomerge.optimizers.kinds import optimizer_settings
from evomerge.optimizers.recorded_settings import as_begun, to_record


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_recorded_gives_the_same_settings_again(kind: str) -> None:
    defaults = optimizer_settings(kind, {})
    recorded = json.loads(json.dumps(to_record(defaults)))
    assert as_begun(kind, {}, recorded) == defaults


def test_what_was_recorded_stands_before_todays_defaults() -> None:
    recorded = {**to_record(optimizer_settings("auto", {})), "steps": 7, "patience": 5}
    found = as_begun("auto", {}, recorded)
    assert (found.steps, found.patience) == (7, 5)


@pytest.mark.parametrize("kind", ["auto", "learned-front"])
def test_campaigns_that_recorded_none_have_the_lessons_of_their_time(kind: str) -> None:
    found = as_begun(kind, {}, None)
    assert (found.splits, found.patience) == (1, 2)
    assert as_begun(kind, {"patience": 12}, None).patience == 12


@pytest.mark.parametrize("kind", ["auto", "learned-front"])
def test_a_record_without_a_setting_that_came_later_means_as_it_was_before(kind: str) -> None:
    recorded = to_record(optimizer_settings(kind, {}))
    later = (
        "allotment",
        "beyond",
        "chart",
        "fewest_held_back",
        "fewest_items",
        "give_up",
        "in_turn",
        "longer",
        "metagpt",
        "share",
        "split_from",
        "whole_tensors",
    )
    for name in later:
        recorded.pop(name, None)
    for found in (as_begun(kind, {}, recorded), as_begun(kind, {}, None)):
        assert found.fewest_items > found.items, "steps were never made smaller for want of budget"
        assert found.fewest_held_back == 0, "of fewer than ten items none was held back"
        assert found.give_up == 0, "lessons never gave up"
        assert found.longer == 1, "there were never more steps than stated"
        assert found.split_from == 500, "fewer genes had whole steps"
        assert not found.in_turn, "preferences were drawn apart"
        assert found.allotment == "alike", "objectives had as many items each"
        assert found.share == 1.0, "lessons took all that slopes may cost"
        assert kind != "auto" or found.chart == "always", "the surrogate always went on"
        assert kind != "auto" or found.beyond == "never", "and stayed on the chart"
        assert found.metagpt, "MetaGPT's weights were evaluated whatever could be learned"
        assert not found.whole_tensors, "methods that make whole tensors had no gradients"


@pytest.mark.parametrize("kind", ["auto", "surrogate"])
def test_a_record_from_before_there_were_scales_by_gene_has_them_by_level(kind: str) -> None:
    recorded = to_record(optimizer_settings(kind, {}))
    assert recorded.pop("scales") == "chosen"
    for older in (recorded, None):
        assert as_begun(kind, {}, older).scales == "by_level"
    assert as_begun(kind, {}, {**recorded, "scales": "chosen"}).scales == "chosen"


def test_others_that_recorded_none_have_the_defaults() -> None:
    assert as_begun("nsga2", {}, None) == optimizer_settings("nsga2", {})


def test_a_record_with_an_option_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown option"):
        as_begun("nsga2", {}, {"stepps": 3})
