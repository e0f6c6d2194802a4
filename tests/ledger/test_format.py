"""The bytes of a ledger: round trips, every flipped byte, every cut, and writes that fail."""

import errno
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zerothorder.errors import LedgerError, UsageError
from zerothorder.key import Key, run_key
from zerothorder.ledger import header as header_module
from zerothorder.ledger import writer as writer_module
from zerothorder.ledger.entry import CHAIN, PREFIX, STEP, Codec, Entry, Rates, float32, frame, link, prefix_is_sound
from zerothorder.ledger.header import Header
from zerothorder.ledger.reader import parse, read
from zerothorder.ledger.writer import Ledger

COLUMNS, GROUPS, TAGS = ("loss", "norm"), ("decay", "plain"), ("z", "pool", "anker-é")


def header(**changes: object) -> Header:
    fields = {
        "base": "0" * 64,
        "sites": [["w", [2, 2], "float32", "decay"]],
        "recipe": "mezo",
        "settings": {"lr": 1e-3},
        "run_key": run_key(1).hex(),
        "generator": 1,
        "precision": "residual",
        "columns": COLUMNS,
        "groups": GROUPS,
        "tags": TAGS,
    }
    return Header(**{**fields, **changes})  # type: ignore[arg-type]


def entry(step: int, lr: float = 1e-3, **changes: object) -> Entry:
    """A step as a run would write it; the rate changes with `lr`."""
    rates = {"decay": Rates(float32(lr), float32(0.01)), "plain": Rates(float32(lr))}
    terms = ((Key("z", step, 0), float32(0.1 * step)),)
    fields = {"step": step, "terms": terms, "notes": {"loss": 2.5, "norm": float32(0.3)}, "rates": rates}
    return Entry(**{**fields, **changes})  # type: ignore[arg-type]


SMALL = [
    entry(0),
    entry(1),
    entry(2, lr=5e-4),
    entry(3, lr=5e-4, skipped=True, terms=((Key("z", 3, 0), math.nan),)),
    entry(4, lr=5e-4, terms=((Key("pool", 7, -1), 1.5), (Key("z", 4, 1), -2.0)), absolute=True),
    entry(5, lr=5e-4),
]
"""Every kind of payload but a dense part."""


def write_small(path: Path) -> list[tuple[int, int, str]]:
    """A ledger of all kinds of entries and an end record; (begin, end, step) of every piece of the file."""
    ledger = Ledger(header(), path)
    pieces = [(0, ledger.size, "header")]

    def note(step: int) -> None:
        pieces.append((pieces[-1][1], ledger.size, str(step)))

    ledger.attach("mask", {"w": torch.ones(2, 2)})
    note(0)
    for e in SMALL:
        ledger.append(e, {"w": torch.full((2, 2), 0.5)} if e.step == 5 else None)
        note(e.step)
    ledger.end("ab" * 32)
    note(len(SMALL))
    ledger.close()
    return pieces


# ---------------------------------------------------------------------------------------------- round trips

float32s = st.floats(width=32)
rate = st.floats(min_value=0.0, max_value=1e3, width=32)
int64s = st.integers(-(2**63), 2**63 - 1)
any_key = st.builds(Key, st.sampled_from(TAGS), int64s, int64s)


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    found: list[Entry] = []
    rates = {group: Rates(draw(rate), draw(rate)) for group in GROUPS}
    for step in range(draw(st.integers(0, 5))):
        if draw(st.booleans()):
            rates = {group: Rates(draw(rate), draw(st.sampled_from([rates[group].decay, 0.5]))) for group in GROUPS}
        if draw(st.booleans()):
            terms = tuple((Key("z", step, j), draw(float32s)) for j in range(draw(st.integers(0, 3))))
        else:
            terms = tuple((draw(any_key), draw(float32s)) for _ in range(draw(st.integers(0, 3))))
        notes = {name: draw(float32s) for name in COLUMNS}
        dense = draw(st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex))
        found.append(Entry(step, terms, notes, rates, draw(st.booleans()), draw(st.booleans()), dense))
    return found


@given(entries())
@settings(max_examples=150, deadline=None)
def test_any_entries_come_back_as_they_were(given_entries: list[Entry]) -> None:
    head = header().encode()
    codec, chain, data = Codec(COLUMNS, GROUPS, TAGS), head[-CHAIN:], head
    for e in given_entries:
        flags, payload = codec.encode(e)
        piece = frame(STEP, flags, e.step, payload, chain)
        assert len(piece) == PREFIX.size + len(payload) + CHAIN
        data, chain = data + piece, piece[-CHAIN:]
    contents = parse(data, "test")
    # through repr: a NaN equals itself there, and 0.0 is not -0.0
    assert repr(list(contents.entries)) == repr(given_entries)
    assert (contents.sound, contents.torn, contents.chain, contents.final) == (len(data), 0, chain, None)
    for until in range(len(given_entries) + 1):
        assert repr(list(parse(data, "test", until).entries)) == repr(given_entries[:until])


@given(st.binary(max_size=60), st.binary(min_size=8, max_size=8), st.integers(0, 2**32 - 1))
def test_frames_hold_their_own_checks(payload: bytes, chain: bytes, step: int) -> None:
    data = frame(STEP, 5, step, payload, chain)
    prefix = data[: PREFIX.size]
    assert prefix_is_sound(prefix, chain)
    assert not prefix_is_sound(prefix, bytes([chain[0] ^ 1]) + chain[1:])  # an entry of another place in the run
    assert PREFIX.unpack(prefix)[:5] == (STEP, 5, 0, len(payload), step)
    assert data[-CHAIN:] == link(prefix, payload, chain)


@given(st.floats())
def test_float32_is_what_the_file_holds(value: float) -> None:
    rounded = float32(value)
    again = struct.unpack("<f", struct.pack("<f", rounded))[0]
    assert again == rounded or (math.isnan(again) and math.isnan(rounded))
    assert math.isnan(rounded) == math.isnan(value)


def test_a_note_that_is_missing_is_nan() -> None:
    ledger = Ledger(header())
    assert math.isnan(ledger.append(entry(0, notes={"loss": 1.0})).notes["norm"])


def test_header_comes_back() -> None:
    data = header(data={"order": "x"}, origin={"torch": "2"}).encode()
    found, length = Header.decode(data + b"more", "test")
    assert length == len(data)
    assert found.encode() == data
    assert (found.data, found.origin, list(found.tags)) == ({"order": "x"}, {"torch": "2"}, list(TAGS))


def test_a_ledger_in_memory_writes_what_a_file_would_hold(tmp_path: Path) -> None:
    in_memory, in_file = Ledger(header()), Ledger(header(), tmp_path / "ledger.zo")
    for e in SMALL:
        assert repr(in_memory.append(e)) == repr(in_file.append(e))
    assert in_memory.chain == in_file.chain
    assert in_memory.size == in_file.size == (tmp_path / "ledger.zo").stat().st_size
    in_file.close()


# ------------------------------------------------------------------------------------------- flips and cuts


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_every_flipped_byte_is_found_and_named(tmp_path: Path, mask: int) -> None:
    pieces = write_small(tmp_path / "ledger.zo")
    whole = (tmp_path / "ledger.zo").read_bytes()
    assert pieces[-1][1] == len(whole)
    for begin, end, where in pieces:
        for at in range(begin, end):
            damaged = bytearray(whole)
            damaged[at] ^= mask
            with pytest.raises(LedgerError) as caught:
                parse(bytes(damaged), "RUN/ledger.zo")
            message = str(caught.value)
            if where == "header":
                assert "header" in message or "not a ledger" in message, (at, message)
                assert "upgrade" not in message, (at, message)
            else:
                assert f"damaged at step {where} (byte {begin})" in message, (at, message)


def test_every_cut_is_told_and_mended(tmp_path: Path) -> None:
    path = tmp_path / "ledger.zo"
    pieces = write_small(path)
    whole = path.read_bytes()
    first = pieces[0][1]
    for cut in range(first):
        with pytest.raises(LedgerError, match=r"not a ledger|cut off"):
            parse(whole[:cut], "test")
    for cut in range(first, len(whole)):
        begin = max(e for _, e, _ in pieces if e <= cut)
        steps = sum(end <= cut for _, end, _ in pieces[2:])
        path.write_bytes(whole[:cut])
        contents = read(path)
        assert (contents.sound, contents.torn) == (begin, cut - begin)
        assert len(contents.entries) == steps
        assert contents.final is None  # how a shorter run is told
        ledger = Ledger.resume(path)
        assert path.read_bytes() == whole[:begin]
        if cut - begin not in (0, 1, 20):
            ledger.close()
            continue
        # going on gives the very file that was never cut
        if not ledger.attached:
            ledger.attach("mask", {"w": torch.ones(2, 2)})
        for e in SMALL[steps:]:
            ledger.append(e, {"w": torch.full((2, 2), 0.5)} if e.step == 5 else None)
        ledger.end("ab" * 32)
        ledger.close()
        assert path.read_bytes() == whole


def test_the_end_record_tells_a_whole_run(tmp_path: Path) -> None:
    write_small(tmp_path / "ledger.zo")
    assert read(tmp_path / "ledger.zo").final == "ab" * 32
    ledger = Ledger.resume(tmp_path / "ledger.zo")
    ledger.append(entry(6))
    ledger.close()
    assert read(tmp_path / "ledger.zo").final is None


def test_a_whole_last_entry_with_a_wrong_checksum_is_never_dropped(tmp_path: Path) -> None:
    path = tmp_path / "ledger.zo"
    pieces = write_small(path)
    begin, end, step = pieces[-2]
    data = bytearray(path.read_bytes()[:end])
    data[end - CHAIN - 1] ^= 4  # in the payload of the last entry
    path.write_bytes(data)
    for opening in (read, Ledger.resume):
        with pytest.raises(LedgerError, match=f"damaged at step {step}"):
            opening(path)
        assert path.read_bytes() == data
    assert begin < end


def test_a_length_that_reaches_beyond_the_file_is_damage_not_a_cut(tmp_path: Path) -> None:
    """A flipped length must not make a reader drop the entries behind it as a torn tail."""
    path = tmp_path / "ledger.zo"
    pieces = write_small(path)
    data = bytearray(path.read_bytes())
    data[pieces[3][0] + 6] = 0xFF  # third byte of the payload's length
    path.write_bytes(data)
    with pytest.raises(LedgerError, match="damaged at step 1 "):
        Ledger.resume(path)
    assert path.read_bytes() == data


def test_entries_cannot_be_exchanged_or_taken_out(tmp_path: Path) -> None:
    """Each checksum covers all that came before it."""
    path = tmp_path / "ledger.zo"
    pieces = write_small(path)
    data = path.read_bytes()
    cut = [data[b:e] for b, e, _ in pieces]
    for order in ([0, 1, 3, 2, 4], [0, 1, 2, 4], [0, 2, 3], [0, 1, 2, 2]):
        with pytest.raises(LedgerError, match="damaged at step"):
            parse(b"".join(cut[i] for i in order), "test")


# ------------------------------------------------------------------------------------------ writes that fail


def failing(error: int, after: int) -> Callable[[int, bytes], int]:
    """os.write that writes `after` bytes and then fails."""
    real, left = os.write, [after]

    def write(handle: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(error, os.strerror(error))
        count = real(handle, data[: left[0]])
        left[0] -= count
        return count

    return write


@pytest.mark.parametrize("after", [0, 1, 16, 30])
def test_a_failed_append_leaves_no_trace(tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.zo"
    ledger = Ledger(header(), path)
    ledger.append(entry(0))
    before, rates, chain = path.read_bytes(), dict(ledger.codec.rates), ledger.chain
    monkeypatch.setattr(writer_module.os, "write", failing(errno.ENOSPC, after))
    with pytest.raises(UsageError, match=r"ledger\.zo: No space left on device; free some space, then resume"):
        ledger.append(entry(1, lr=9e-9))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert (ledger.codec.rates, ledger.chain, len(ledger.past)) == (rates, chain, 1)
    # the new rate is written by the entry that comes through, not lost with the one that did not
    ledger.append(entry(1, lr=9e-9))
    ledger.close()
    assert repr(read(path).entries) == repr((entry(0), entry(1, lr=9e-9)))


def test_a_failed_sync_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.zo"
    ledger = Ledger(header(), path)
    ledger.append(entry(0))
    before = path.read_bytes()

    def fsync(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(writer_module, "_SYNC_SECONDS", -1.0)
    monkeypatch.setattr(writer_module.os, "fsync", fsync)
    with pytest.raises(UsageError, match="Input/output error"):
        ledger.append(entry(1, lr=9e-9))
    with pytest.raises(UsageError, match="Input/output error"):
        ledger.sync()
    monkeypatch.undo()
    assert path.read_bytes() == before
    ledger.append(entry(1, lr=8e-9))
    ledger.close()
    assert repr(read(path).entries) == repr((entry(0), entry(1, lr=8e-9)))


def test_a_refused_entry_leaves_no_trace() -> None:
    ledger = Ledger(header())
    ledger.append(entry(0))
    rates = dict(ledger.codec.rates)
    with pytest.raises(LedgerError, match="'elsewhere' is not in the ledger's header"):
        ledger.append(entry(1, lr=9e-9, terms=((Key("elsewhere", 0, 0), 1.0),)))
    with pytest.raises(LedgerError, match="step 5 cannot follow 1 written steps"):
        ledger.append(entry(5, lr=9e-9))
    assert (ledger.codec.rates, len(ledger.past)) == (rates, 1)


def test_a_full_disk_under_an_attachment_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(header(), tmp_path / "ledger.zo")

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UsageError, match=r"cannot write the attachment .* No space left on device; free some space"):
        ledger.append(entry(0), {"w": torch.ones(2)})
    monkeypatch.undo()
    assert list((tmp_path / "attachments").iterdir()) == []
    ledger.close()
    assert read(tmp_path / "ledger.zo").entries == ()


def test_another_run_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.zo"
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already; choose another output folder or resume the run"):
        Ledger(header(), path)
    assert path.read_bytes() == b"mine"
    with pytest.raises(UsageError, match=r"cannot write the ledger .*No such file or directory"):
        Ledger(header(), tmp_path / "nowhere" / "ledger.zo")


# -------------------------------------------------------------------------------------------------- versions


def test_a_newer_format_asks_for_an_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_module, "FORMAT", 2)
    data = header().encode()
    monkeypatch.undo()
    with pytest.raises(LedgerError, match=r"RUN/ledger\.zo has ledger format 2, .* reads up to 1; upgrade zerothorder"):
        parse(data, "RUN/ledger.zo")


def test_an_unknown_kind_of_entry_is_not_skipped() -> None:
    head = header().encode()
    piece = frame(9, 0, 0, b"new", head[-CHAIN:])
    with pytest.raises(LedgerError, match="unknown kind 9 at step 0; upgrade"):
        parse(head + piece, "test")


def test_files_that_are_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"cannot read the ledger .*No such file"):
        read(tmp_path / "ledger.zo")
    for content in (b"", b"ZO", b"PK\x03\x04" * 20):
        (tmp_path / "ledger.zo").write_bytes(content)
        with pytest.raises(LedgerError, match="is not a ledger"):
            read(tmp_path / "ledger.zo")


def test_a_header_says_nothing_about_data_unless_told() -> None:
    """A private run publishes what its header was given, and nothing else."""
    found, _ = Header.decode(header().encode(), "test")
    assert (found.data, found.origin) == ({}, {})
