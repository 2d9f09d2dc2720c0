from fitting.report import fit_report


def test_the_law_chosen_by_rolling_errors_is_fitted_and_a_named_law_is_told_of_it():
    table = "published:over_training:c4"
    text = fit_report("data,over_training", table, point_only=True, audits=2)
    assert text.startswith("# over_training: 34 runs") and "| data " in text
    assert "weighted mean of" in text and "| chosen" in text
    drawn = {"draws": 20, "audits": 0}
    text = fit_report("chinchilla_no_floor", table, held_out="above:0.25", **drawn)
    assert text.startswith("# chinchilla_no_floor: ") and "would have been chosen" in text


def test_a_point_fit_of_one_law_judges_no_other():
    text = fit_report("over_training", "published:over_training:c4", point_only=True, audits=2)
    assert "no other law was judged" in text and "would have been chosen" not in text
    assert "| chinchilla " not in text and "| nearest_run" in text


def test_an_allocation_far_beyond_the_runs_comes_with_a_warning():
    options = {"point_only": True, "audits": 2}
    text = fit_report("over_training", "published:over_training:c4", flops=[1e26], **options)
    assert "**WARNING: 1e+26 FLOP is " in text and "times the largest fitted run's" in text
