"""The verdict says what the records show, and flags what should not be."""

import pytest

from rainjax import report
from rainjax.evaluation import Record
from tests.report.made_records import findings, flags, make_record, results_of, share, small_study


def test_verdict_states_strongest_attack_and_distance_from_blind():
    text = findings(small_study())[1]
    assert text.startswith("**RAIN, fine-tuned**: 90.0 % right on clean images, ≤ 30.0 % [")
    assert (
        "strongest attack measured, EOT-PGD (L∞ radius 8/255, 40 steps of 2/255, K = 16)" in text
    )
    assert "That is 30.0 points below the 60.0 % [" in text
    assert "Right under every one of 5 draws: 20.0 % [" in text


def test_verdict_says_when_no_attack_beats_the_blind_one():
    records = [
        make_record("rain_finetuned", "blind", share(30)),
        make_record("rain_finetuned", "eot", share(60)),
    ]
    assert "No adaptive attack did better than the purifier-blind one." in findings(records)[0]
    (flag,) = flags(records)
    assert "the weaker threat model purifier-blind PGD did better than EOT-PGD" in flag
    assert "30.0 % [" in flag
    assert "against 60.0 % [" in flag
    assert "The intervals are apart" in flag
    assert "gradient masking" in flag


def test_verdict_calls_a_small_reversal_possible_chance():
    records = [
        make_record("rain_finetuned", "white_box", share(29)),
        make_record("rain_finetuned", "eot", share(31)),
    ]
    (flag,) = flags(records)
    assert "The intervals overlap, so chance may explain it." in flag


def test_verdict_compares_on_the_images_both_attacks_saw():
    # EOT saw the first half, where the blind attack left 20 %: no reversal there.
    blind = make_record("rain_finetuned", "blind", [5] * 20 + [0] * 180)
    eot = make_record("rain_finetuned", "eot", [5] * 15 + [0] * 85)
    assert flags([blind, eot]) == []
    eot = make_record("rain_finetuned", "eot", [5] * 25 + [0] * 75)
    (flag,) = flags([blind, eot])
    assert "leaving 20.0 % [" in flag
    assert "on the 100 images that both were run on" in flag


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (
            [
                make_record("rain_finetuned", "eot", share(20), num_eot=4, tags=["draws"]),
                make_record("rain_finetuned", "eot", share(50), num_eot=8, tags=["draws"]),
            ],
            "K = 4 did better than K = 8",
        ),
        (
            [
                make_record("rain_finetuned", "eot", share(10), radius=2 / 255, tags=["radius"]),
                make_record("rain_finetuned", "eot", share(40), radius=9 / 255, tags=["radius"]),
            ],
            "EOT-PGD at radius 2/255 did better than EOT-PGD at radius 9/255",
        ),
        (
            [
                make_record("rain_finetuned", "clean", share(50)),
                make_record("rain_finetuned", "blind", share(80)),
            ],
            "clean images score lower than purifier-blind PGD",
        ),
        (
            [
                make_record("rain_finetuned", "eot", share(20)),
                make_record("rain_finetuned", "known_key", share(60)),
            ],
            "the weaker threat model EOT-PGD did better than known key",
        ),
    ],
)
def test_verdict_flags_what_should_not_be(records, words):
    (flag,) = flags(records)
    assert words in flag
    assert "The intervals are apart" in flag


def test_verdict_flags_an_attack_that_left_its_ball():
    record = make_record("rain_finetuned", "eot", share(20))
    assert flags([record]) == []
    record["result"]["linf_max"] = 0.04
    assert "moved a pixel by 0.040000, further than its radius of 0.031373" in flags([record])[0]
    for norm in ("l2", "l1"):
        record = make_record("rain_finetuned", "eot", share(20), norm=norm, radius=2.0)
        record["result"][f"{norm}_max"] = 2.00001
        assert flags([record]) == []
        assert f"no attack left its {norm.upper()} ball" in findings([record])[-1]
        record["result"][f"{norm}_max"] = 2.01
        words = f"moved an image in {norm.upper()} by 2.010000, further than its radius of 2.0"
        assert words in flags([record])[0]


def test_verdict_of_other_rows_and_balls_is_not_mixed():
    records = [
        make_record("rain_finetuned", "blind", share(10), radius=16 / 255),
        make_record("rain_finetuned", "eot", share(40)),
        make_record("rain_pretrained", "blind", share(20)),
    ]
    assert flags(records) == []
    assert "No flag was raised" in findings(records)[-1]


def test_summary_marks_flags_and_fits_the_terminal():
    records = [
        make_record("rain_finetuned", "blind", share(61)),
        make_record("rain_finetuned", "white_box", share(20)),
        make_record("rain_finetuned", "eot", share(62)),
    ]
    text = report.summary([Record(record) for record in records], width=80)
    verdict = text[text.index("- RAIN") :]
    assert "\n? RAIN, fine-tuned: the weaker threat model purifier-blind PGD did better" in verdict
    assert "\n! RAIN, fine-tuned: the weaker threat model white-box PGD did better" in verdict
    assert max(map(len, verdict.splitlines())) <= 80
    assert "**" not in text


def test_distance_from_blind_is_taken_on_the_same_images():
    # The blind attack left 80 % of all 200 images, but 60 % of the 100 that EOT was run on.
    records = [
        make_record("rain_finetuned", "blind", [5] * 60 + [0] * 40 + [5] * 100),
        make_record("rain_finetuned", "eot", [5] * 10 + [0] * 90),
    ]
    text = findings(records)[0]
    assert "That is 50.0 points below the 60.0 % [" in text
    assert "leaves on the 100 images that both were run on." in text


def by_chance(count):
    """Rows where the better informed attack leaves a little more, the only thing to be said."""
    records = []
    for number in range(count):
        records += [
            make_record(f"row {number}", "white_box", share(29)),
            make_record(f"row {number}", "eot", share(31)),
        ]
    return records


def test_a_verdict_is_never_nothing_but_chance():
    records = by_chance(9)
    records[4] = make_record("row 2", "white_box", share(10))
    records[5] = make_record("row 2", "eot", share(10.5))
    result, chance = report.verdict(results_of(records))
    assert not result.flag
    assert result.text.startswith(
        "Of 9 subjects, the strongest attacks within L∞ radius 8/255 leave between ≤ 10.0 % ["
    )
    assert "of row 2 (white-box PGD) and ≤ 29.0 % [" in result.text
    assert chance.chance
    assert chance.text.startswith("In 9 pairs of attacks the one with less to work with did")
    # Few beside other findings are told one by one, many would hide what chance does not explain.
    assert len(flags(by_chance(3))) == 3
    worse = [make_record("bad", "blind", share(10)), make_record("bad", "eot", share(60))]
    told = flags([*by_chance(4), *worse])
    assert len(told) == 2
    assert "The intervals are apart" in told[0]
    assert told[1].startswith("In 4 pairs")


def test_a_black_box_that_beats_the_blind_attacker_is_no_wonder():
    square = make_record("rain_finetuned", "black_box", share(10))
    assert flags([square, make_record("rain_finetuned", "blind", share(60))]) == []
    (flag,) = flags([square, make_record("rain_finetuned", "eot", share(60))])
    assert "the white box was masked" in flag
    assert "The black box Square leaves" in flag


def test_a_flag_names_the_ball_where_there_are_several():
    records = [
        make_record("rain_finetuned", "blind", share(10), radius=4 / 255),
        make_record("rain_finetuned", "eot", share(60), radius=4 / 255),
        make_record("rain_finetuned", "eot", share(20)),
    ]
    (flag,) = flags(records)
    assert "purifier-blind PGD did better than EOT-PGD within L∞ radius 4/255, leaving" in flag


def test_more_steps_that_help_the_defense_are_flagged():
    records = [
        make_record("rain_finetuned", "eot", share(left), num_steps=steps, tags=["steps"])
        for steps, left in ((10, 20), (40, 60))
    ]
    (flag,) = flags(records)
    assert "10 steps did better than 40 steps" in flag


def test_what_was_not_compared_is_not_said_to_be_in_order():
    lone = make_record("rain_finetuned", "eot", share(20))
    assert findings([lone])[-1] == "No flag was raised: no attack left its L∞ ball."
    unbounded = make_record("rain_finetuned", "eot", share(20), radius=None, norm="l2")
    assert findings([unbounded])[-1].startswith("No two attacks here can be held against each")
    clean = make_record("rain_finetuned", "clean", share(90))
    assert findings([clean])[0].startswith("Nobody attacked. Right on clean images: RAIN, fine-t")
    swept = [
        make_record("rain_finetuned", "eot", share(20), num_steps=steps, tags=["steps"])
        for steps in (10, 40)
    ]
    (text,) = [text for text in findings(swept) if text.startswith("No flag")]
    assert "more steps never helped" in text
    assert "weaker" not in text
    assert "radius" not in text


def test_threat_models_of_any_tag_are_held_against_each_other():
    records = [
        make_record("rain_finetuned", "clean", share(90)),
        make_record("rain_finetuned", "black_box", share(20), tags=["mine"]),
        make_record("rain_finetuned", "eot", share(80), tags=["mine"]),
    ]
    (flag,) = flags(records)
    assert "the white box was masked" in flag
    assert "The black box Square leaves" in flag
    assert "20.0 % [" in findings(records)[0]
    records[2] = make_record("rain_finetuned", "eot", share(80))
    assert len(flags(records)) == 1


def test_of_a_sweep_the_strongest_setting_speaks_for_the_threat_model():
    records = [
        make_record("rain_finetuned", "white_box", share(30)),
        make_record("rain_finetuned", "eot", share(20)),
        make_record("rain_finetuned", "eot", share(60), num_steps=1, tags=["mine"]),
    ]
    assert flags(records) == []
