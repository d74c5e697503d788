"""Fields of a recipe as a command line sees them."""

import pytest

from anyjepa.core.errors import UserError
from anyjepa.engine.train import Settings
from anyjepa.recipes import recipe
from anyjepa.recipes.fields import fields_of, parse_words

FIELDS = {field.name: field for field in fields_of(recipe("i-jepa"))}


def test_the_comment_beside_a_field_is_its_meaning():
    assert FIELDS["patch_size"].meaning == "side of a patch in pixels"
    assert FIELDS["batch_size"].meaning == "samples a step, over all processes"
    assert all(field.meaning for field in fields_of(Settings))


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("patch_size", ["8"], 8),
        ("learning_rate", ["1e-3"], 1e-3),
        ("image_size", ["64"], (64, 64)),
        ("image_size", ["64", "32"], (64, 32)),
        ("momentum", ["0.9", "1"], (0.9, 1.0)),
        ("published", [], True),
        ("published", ["False"], False),
        ("objective", ["l2"], "l2"),
    ],
)
def test_words_become_values_of_the_fields_type(name, words, value):
    parsed = FIELDS[name].parse(words)
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_field_may_take_as_many_numbers_as_are_given():
    radii = next(field for field in fields_of(recipe("sar-jepa")) if field.name == "radii")
    assert radii.shape == "N ..."
    assert radii.parse(["3"]) == (3,)
    assert radii.parse(["3", "5", "7"]) == (3, 5, 7)
    for wrong in ([], ["3", "x"]):
        with pytest.raises(UserError, match=r"--radii takes N \.\.\."):
            radii.parse(wrong)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("patch_size", ["four"], "--patch-size takes N, not 'four'"),
        ("patch_size", ["4", "4"], "--patch-size takes N, not '4 4'"),
        ("image_size", ["1", "2", "3"], "--image-size takes N N"),
        ("published", ["maybe"], "true or false"),
        ("objective", ["smooth-l2"], "Did you mean 'smooth-l1'"),
    ],
)
def test_words_of_another_type_are_refused_in_one_sentence(name, words, message):
    with pytest.raises(UserError, match=message):
        FIELDS[name].parse(words)


def test_optional_settings_parse_as_their_type():
    steps = next(field for field in fields_of(Settings) if field.name == "steps")
    assert (steps.parse(["7"]), steps.shape, steps.default) == (7, "N", None)


def test_flags_and_words_of_a_script():
    kind = recipe("i-jepa")
    assert parse_words(kind, ["--width", "64", "--momentum", "0.9", "1"]) == {
        "width": 64,
        "momentum": (0.9, 1.0),
    }
    twice = ["--momentum", "0.9", "1", "--width", "64", "--momentum", "0.99", "1"]
    assert parse_words(kind, twice) == {"width": 64, "momentum": (0.99, 1.0)}
    with pytest.raises(UserError, match="Did you mean '--width'"):
        parse_words(kind, ["--widht", "64"])
    with pytest.raises(UserError, match="belongs to no field"):
        parse_words(kind, ["64"])
