"""Searching bytes for a POSIX extended regular expression, as ``=~`` does in a route, in linear time.

Messages come from strangers, and Python's ``re`` takes exponential time for some expressions (``(a+)+$``) and quadratic
time for ordinary ones (``.*x``). Here an expression becomes a deterministic automaton, built when needed (Thompson's
construction; as RE2 and grep do it), which looks at each byte once; what a state runs over without change is skipped at
once. An expression that only lists characters and alternatives is linear in ``re`` too, which is faster then.
"""

import re
import string
from typing import Any, Final

from sipdump_core.posix_re import Chars, compile_program

__all__ = ["Matcher"]

_MAX_STATES: Final = 1000
"""States that an automaton keeps; where a message needs more, it is built anew."""

_MAX_PROGRAM: Final = 1000
_MANY_LOOPS: Final = 32
_START, _OTHER, _LETTER, _END = range(4)
"""What stands beside a position: the start of the text, no word character, a word character, the end of the text."""


class Matcher:
    """A compiled expression; it takes letters of either case, as Kamailio does (REG_EXTENDED, REG_ICASE).

    Args:
        source: the expression.

    Raises:
        ValueError: it is no expression, or one that is larger than anybody needs.
    """

    def __init__(self, source: bytes) -> None:
        program, _ = compile_program(source.decode("latin-1"))
        if len(program) > _MAX_PROGRAM:
            raise ValueError("it is too large")
        self._program = [*map(_instruction, program), ("match",)]
        self._plain = _as_python(self._program)
        self._words = any(instruction[0] == "at" and instruction[1] in "bB<>" for instruction in self._program)
        self._classes = _classes(self._program)
        self._clear()

    def search(self, text: bytes) -> bool:
        """Say whether the expression matches anywhere in a text. Never raises; may be called from any thread."""
        if self._plain:
            return self._plain.search(text) is not None
        state, at, end = self._start, 0, len(text)
        while at < end:
            following = state.row[text[at]]
            at += 1
            if following is state:
                if state.skip:
                    found = state.skip.search(text, at)
                    at = found.start() if found else end
                else:
                    self._looped(state)
            elif following is None:
                state = self._fill(state, text[at - 1])
                if state is _MATCHED:
                    return True
            elif following is _MATCHED:
                return True
            else:
                state = following
        if state.at_end is None:
            state.at_end = self._follow(state, _END) is None
        return state.at_end

    def _clear(self) -> None:
        self._states: dict[tuple[frozenset[int], int], _State] = {}
        self._start = self._state(frozenset([0]), _START)

    def _state(self, pending: frozenset[int], before: int) -> "_State":
        state = self._states.get((pending, before))
        if state is None:
            state = self._states[pending, before] = _State(pending, before)
        return state

    def _fill(self, state: "_State", byte: int) -> "_State":
        """Find out where a byte leads to from a state, for all bytes that no part of the expression tells from it."""
        alike = next(alike for alike in self._classes if byte in alike)
        following = _MATCHED
        inside = _LETTER if _is_word(byte) else _OTHER
        places = self._follow(state, inside)
        if places is not None:
            pending = frozenset(pc + 1 for pc in places if byte in self._program[pc][1]) | {0}
            if len(self._states) >= _MAX_STATES:
                self._clear()  # states in use elsewhere go on as they are
            following = self._state(pending, inside if self._words else _OTHER)
        for other in alike:
            state.row[other] = following
        return following

    def _looped(self, state: "_State") -> None:
        """Note that a state has led to itself; one that does it often learns to skip what does not change it."""
        state.loops += 1
        if state.loops < _MANY_LOOPS:
            return
        for alike in self._classes:
            byte = next(iter(alike))
            if state.row[byte] is None:
                self._fill(state, byte)
        state.skip = re.compile(_any_of(frozenset(byte for byte in range(256) if state.row[byte] is not state)))

    def _follow(self, state: "_State", after: int) -> list[int] | None:
        """Take the steps that take no byte: where is it then? None where the expression has matched."""
        stack, seen = list(state.pending), set[int]()
        places = []
        while stack:
            pc = stack.pop()
            if pc in seen:
                continue
            seen.add(pc)
            kind, *operands = self._program[pc]
            if kind == "match":
                return None
            if kind == "chars":
                places.append(pc)
            elif kind == "split":
                stack += [pc + operands[0], pc + operands[1]]
            elif kind == "jump":
                stack.append(pc + operands[0])
            elif kind == "save" or _is_at(operands[0], state.before, after):
                stack.append(pc + 1)
        return places


class _State:
    """Where in the expression a search may be."""

    def __init__(self, pending: frozenset[int], before: int) -> None:
        self.pending = pending
        self.before = before
        self.row: list[_State | None] = [None] * 256
        """The next state by byte, as far as it is known."""
        self.at_end: bool | None = None
        self.loops = 0
        self.skip: re.Pattern[bytes] | None = None
        """Finds the next byte that leads elsewhere."""


_MATCHED: Final = _State(frozenset(), _START)


def _is_at(where: str, before: int, after: int) -> bool:
    if where in "^`":
        return before == _START
    if where in "$'":
        return after == _END
    left, right = before == _LETTER, after == _LETTER
    return {"b": left != right, "B": left == right, "<": right and not left, ">": left and not right}[where]


def _instruction(instruction: Any) -> Any:
    """Give an instruction as a tuple, with the bytes that characters stand for."""
    if not isinstance(instruction, Chars):
        return instruction
    held = {byte for byte in range(256) if instruction.holds(chr(byte))}
    held |= {byte ^ 32 for byte in held if chr(byte) in string.ascii_letters}
    return ("chars", frozenset(range(256)) - held if instruction.negated else frozenset(held))


def _classes(program: list[Any]) -> list[frozenset[int]]:
    """Part the bytes into sets that no instruction tells apart."""
    sets = [instruction[1] for instruction in program if instruction[0] == "chars"]
    sets.append(frozenset(byte for byte in range(256) if _is_word(byte)))
    signatures: dict[tuple[bool, ...], set[int]] = {}
    for byte in range(256):
        signatures.setdefault(tuple(byte in held for held in set(sets)), set()).add(byte)
    return [frozenset(alike) for alike in signatures.values()]


def _is_word(byte: int) -> bool:
    return chr(byte) in string.ascii_letters + string.digits + "_"


def _as_python(program: list[Any]) -> re.Pattern[bytes] | None:
    """Give the same for ``re``, if there is nothing in it but characters, anchors and alternatives of the whole."""
    parts, at = [], 0
    while at < len(program):
        kind, *operands = program[at]
        if kind == "chars":
            parts.append(_any_of(operands[0]))
        elif kind == "at" and operands[0] in "^`$'":
            parts.append(rb"\A" if operands[0] in "^`" else rb"\Z")
        elif kind == "split":
            *_, last = program[at : at + operands[1]]
            if last[0] != "jump" or at + operands[1] - 1 + last[1] != len(program) - 1:
                return None
        elif kind == "jump":
            if at + operands[0] != len(program) - 1:
                return None
            parts.append(b"|")
        elif kind != "match":
            return None
        at += 1
    return re.compile(b"".join(parts))


def _any_of(held: frozenset[int]) -> bytes:
    if not held:
        return rb"(?!)"
    if len(held) == 1:
        return re.escape(bytes(held))
    return b"[" + b"".join([b"\\x%02x" % byte for byte in sorted(held)]) + b"]"
