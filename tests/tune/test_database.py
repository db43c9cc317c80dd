from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from support.tuning import doubling

from ingot.errors import IngotError
from ingot.kernels.api import Target
from ingot.tune.database import Database, Entry, Key, publish, record_merge, recorded, user_path

REGION = doubling(4)


def key(device: str = "A", compilers: str = "c1", region: str = "r") -> Key:
    return Key("sm_90", region, "", device, compilers)


def test_round_trip_is_exact_and_sorted(tmp_path: Path) -> None:
    one, two = Entry(key(), "map", {"b": 2.0, "a": 1.0}, {"z": "NaN"}), Entry(key("B"), "map", {"a": 3.25})
    for name in ("times.json", "times.json.gz"):
        Database([two, one]).save(tmp_path / name)
        loaded = Database.load(tmp_path / name)
        assert list(loaded) == [one, two]
        assert loaded.encode() == Database([one, two]).encode()
    assert Database([one]).encode() == Database([Entry(key(), "map", {"a": 1.0, "b": 2.0}, {"z": "NaN"})]).encode()


def test_no_file_is_an_empty_database(tmp_path: Path) -> None:
    assert len(Database.load(tmp_path / "none.json")) == 0


def test_merging_replaces_times_and_moves_variants_between_times_and_refusals() -> None:
    base = Database([Entry(key(), "map", {"a": 1.0, "b": 2.0}, {"c": "NaN"})])
    base.merge([Entry(key(), "map", {"b": 1.5, "c": 4.0}, {"a": "wrong"})])
    entry = base.get(key())
    assert entry is not None
    assert entry.micros == {"b": 1.5, "c": 4.0}
    assert entry.refused == {"a": "wrong"}
    assert entry.best == "b"


def test_ties_go_to_the_first_text() -> None:
    assert Entry(key(), "map", {"b": 1.0, "a": 1.0}).best == "a"


def test_record_merge_keeps_what_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "times.json"
    record_merge(path, [Entry(key(region="r1"), "map", {"a": 1.0})])
    record_merge(path, [Entry(key(region="r2"), "map", {"a": 2.0})])
    assert [e.key.signature for e in Database.load(path)] == ["r1", "r2"]
    assert [p.name for p in path.parent.iterdir()] == ["times.json"]


def test_hints_prefer_the_device_then_the_compilers() -> None:
    base = Database([
        Entry(key("A", "old"), "map", {"x": 9.0, "y": 8.0}),
        Entry(key("A", "new"), "map", {"x": 1.0}),
        Entry(key("B", "new"), "map", {"x": 0.5}),
        Entry(key("A", "new", "other"), "map", {"x": 0.1}),
    ])  # fmt: skip
    assert base.hints(key("A", "new")) == ({"x": 1.0, "y": 8.0}, "A")
    assert base.hints(key("A", "old")) == ({"x": 9.0, "y": 8.0}, "A")
    assert base.hints(key("B", "old")) == ({"x": 0.5}, "B")
    assert base.hints(key("", "new"))[1] == "A"
    assert base.hints(key(region="unknown")) == ({}, "")


def test_refusals_count_for_the_same_compilers_only() -> None:
    base = Database([Entry(key("A", "c1"), "map", {}, {"x": "NaN"}), Entry(key("B", "c2"), "map", {}, {"y": "NaN"})])
    assert base.refusals(key("", "c1")) == {"x": "NaN"}


def test_shortened_keeps_the_fastest_and_no_refusals() -> None:
    base = Database(
        [Entry(key(), "map", {"a": 3.0, "b": 1.0, "c": 2.0}, {"d": "NaN"}), Entry(key("B"), "map", {}, {"d": "x"})]
    )
    assert list(base.shortened(2)) == [Entry(key(), "map", {"b": 1.0, "c": 2.0})]


def test_publishing_drops_the_kernels_digest_and_newer_times_win(tmp_path: Path) -> None:
    user, shipped = tmp_path / "user.json", tmp_path / "sm_90.json.gz"
    Database([
        Entry(key("A", "triton-3 kernels-old"), "map", {"a": 5.0, "b": 6.0, "c": 7.0}, {"d": "NaN"}),
        Entry(key("A", "triton-3 kernels-new"), "map", {"a": 4.0}),
    ]).save(user)  # fmt: skip
    assert publish(user, shipped, "triton-3 kernels-old", keep=2) == 1
    assert publish(user, shipped, "triton-3 kernels-new", keep=2) == 1
    assert list(Database.load(shipped)) == [Entry(key("A", "triton-3"), "map", {"a": 4.0, "b": 6.0})]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"[]", "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b'{"format": "other"}', "not a timing database"),
        (b'{"format": "ingot-timing", "version": 99, "entries": []}', "version 99"),
        (b'{"format": "ingot-timing", "version": 1, "entries": [{}]}', "damaged"),
        (b'{"format": "ingot-timing", "version": 1, "entries": 4}', "damaged"),
    ],
)
def test_damage_is_one_clear_error(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "times.json"
    path.write_bytes(content)
    with pytest.raises(IngotError, match=reason) as caught:
        Database.load(path)
    assert str(path) in str(caught.value)


def test_every_truncation_of_a_file_is_refused(tmp_path: Path) -> None:
    data = Database([Entry(key(), "map", {"a": 1.0})]).encode().rstrip()
    for size in range(len(data)):
        with pytest.raises(IngotError):
            Database.decode(data[:size], "cut")
    path = tmp_path / "cut.json.gz"
    path.write_bytes(gzip.compress(data)[:-9])
    with pytest.raises(IngotError):
        Database.load(path)


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IngotError, match="cannot be written"):
        Database().save(tmp_path / "file" / "times.json")


def test_key_holds_symbols_and_tf32() -> None:
    static, dynamic = doubling(4), doubling("batch", 4)
    bindings = {"batch": 8, "other": 3}
    assert Key.of(static, Target(90), bindings, "A", "c").bindings == ""
    assert Key.of(dynamic, Target(90), bindings, "A", "c").bindings == "batch=8"
    assert Key.of(static, Target(90, tf32=True), {}, "A", "c") != Key.of(static, Target(90), {}, "A", "c")


def test_shipped_databases_are_valid() -> None:
    for cc in (80, 90, 120):
        for entry in recorded(Target(cc)):
            assert entry.key.target.startswith(f"sm_{cc}") and entry.micros


def test_default_place_is_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path))
    assert user_path(Target(90), None) == tmp_path / "timing" / "sm_90.json"
    assert user_path(Target(90), tmp_path / "x.json") == tmp_path / "x.json"
