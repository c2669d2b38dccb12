"""The call list: what is stored, the newest first, and what comes."""

from collections.abc import Iterable

from rich.style import Style
from textual.widget import Widget

from sipdump_core.errors import ConfigError
from sipdump_core.reading.lines import counted
from sipdump_core.reading.render.plain import cells, fitted, printable
from sipdump_core.viewing.listing import Column
from sipdump_core.viewing.terminal.board import Board
from sipdump_core.viewing.terminal.choices import ColumnsView, HelpView, SettingsView, TextView, following
from sipdump_core.viewing.terminal.colours import BOLD, DIM, MARKS, PLAIN, TITLE
from sipdump_core.viewing.terminal.ladders import LadderView
from sipdump_core.viewing.terminal.saving import ask_where
from sipdump_core.viewing.terminal.sheet import Bar, Line, Sheet
from sipdump_core.viewing.terminal.view import Key, View
from sipdump_core.viewing.words import NAMES, Search

__all__ = ["ListView"]

_MARK = 2
_MORE = 2
"""Columns at the right, for the sign that there are more."""
_MOST_OPENED = 20
"""Calls that are drawn in one ladder."""
_STATES = 5
"""States that are counted at the foot, the most frequent ones."""
_GREEDY = ("call_id", "agent", "from_user", "to_user", "reason", "gaps", "from_uri", "to_uri")
"""Columns that can use more room than they need, the first of them most."""
_COLOURS = ("state", "line", "none")


class ListView(View):
    """The call list.

    Args:
        board: what is known.
    """

    keys = (
        Key(("f1", "?", "h"), "Help", "this help", "help"),
        Key(("enter",), "Show", "show the ladder of the call, or of those that are selected", "show"),
        Key((" ",), "Select", "select the call, or not any more", "select"),
        Key(("f2", "s"), "Save", "save the selected calls, or this one: pcap, pcapng, text, HTML, ...", "save"),
        Key(("f3", "/", "tab"), "Search", "show only the calls that have a text somewhere", "search"),
        Key(("f4", "x"), "Legs", "show the ladder with the other legs of the call", "extended"),
        Key(("f7", "f"), "Filter", "another search, in the words of sipdump-read find", "filter"),
        Key(("p",), "Pause", "let the list stand still; and go on with what came meanwhile", "pause"),
        Key(("f5", "ctrl+l"), "Clear", "take all calls from the list; those that come are listed", "clear"),
        Key(("f6", "r"), "Raw", "the messages of the call, one below the other", "raw"),
        Key(("f8", "o"), "Settings", "settings", "settings"),
        Key(("f9",), "All", "search without filters again", "unfilter"),
        Key(("f10", "t"), "Columns", "choose the columns", "columns"),
        Key(("<",), "", "sort by the column to the left", "sort_left"),
        Key((">",), "", "sort by the column to the right", "sort_right"),
        Key(("z",), "", "sort the other way round: newest first, or newest last", "reverse"),
        Key(("A",), "", "let the cursor stay with the newest call, or not", "follow"),
        Key(("i",), "", "calls only, no registrations and the like; and back", "calls_only"),
        Key(("c",), "", "colour the state, the whole line, or nothing", "colours"),
        Key(("left",), "", "the columns to the left", "left"),
        Key(("right",), "", "the columns to the right", "right"),
        Key(("n",), "", "what could not be read, and other notes", "notes"),
        Key(("escape",), "", "stop reading; then deselect; then quit, after a question", "leave"),
        Key(("q", "Q"), "Quit", "quit", "quit"),
    )

    def __init__(self, board: Board) -> None:
        super().__init__(board, cursor=True)
        self._first = 0
        """The first of the columns that are shown."""
        self._at: str | None = None
        """The call that the cursor is on."""
        self._states = ""
        self.sheet.count = lambda: len(board.rows)
        self.sheet.line = self._line
        self.sheet.heads = lambda width: [self._head(width)]

    def tick(self) -> None:
        """Follow what changed."""
        self._keep_cursor()
        found = self.board.rows.states().most_common(_STATES)
        self._states = ", ".join(f"{count:,} {state}" for state, count in found)
        self.redraw()

    def above(self) -> Iterable[Widget]:
        """Return the line of the filter."""
        yield Bar(self._filter_line)

    def title_line(self, width: int) -> Line:
        """Return what is read, and whether it stands still."""
        board = self.board
        state = "PAUSED" if board.paused else "live"
        if board.broken:
            state = "ENDED"
        came = f"{board.counts.messages:,} came  " if board.counts.messages else ""
        right = f"{came}{state} "
        left = fitted(f" sipdump  {printable(board.place)}", max(0, width - cells(right) - 1))
        return [(left + " " * max(1, width - cells(left) - cells(right)) + right, TITLE)]

    def status_line(self, width: int) -> Line:
        """Return the counts."""
        board, rows = self.board, self.board.rows
        count = counted(len(rows), "call") if len(rows) == 1 else f"{len(rows):,} calls"
        if len(rows) != rows.total:
            count += f" of {rows.total:,}"
        parts = [count]
        if board.selected:
            parts.append(f"{len(board.selected)} selected")
        if rows.dropped:
            parts.append(f"{rows.dropped:,} older ones no longer listed")
        if board.lost:
            parts.append(f"{board.lost:,} changes lost")
        if board.problems or board.notes:
            parts.append(f"{counted(len(board.problems) + len(board.notes), 'note')}: n")
        if self._states:
            parts.append(self._states)
        parts.append(board.progress)
        # how far it is read stands last, and is cut last; the states are cut first
        text = fitted(" " + "; ".join(parts[:-1]), max(0, width - cells(parts[-1]) - 3))
        return [(f"{text}; {parts[-1]}", PLAIN)]

    def on_sheet_chosen(self) -> None:
        """Show the ladder."""
        self.do_show()

    def on_sheet_moved(self) -> None:
        """Remember the call."""
        self._at = self._row_id()

    def on_sheet_head_clicked(self, event: Sheet.HeadClicked) -> None:
        """Sort by the column that was clicked."""
        x = _MARK
        for column, width in self._fitting(self.sheet.size.width):
            if x <= event.column < x + width:
                rows = self.board.rows
                rows.sort(column, downwards=not rows.downwards if rows.by == column else rows.downwards)
                self.tick()
                return
            x += width + 1

    def do_help(self) -> None:
        """Show the keys."""
        more: list[Line] = [
            [("Filters, one behind the other, as of sipdump-read find: ", PLAIN)],
            [("  user=alice state=failed since=10:00 until=now ip=192.0.2.0/24 method=INVITE status=4xx ...", BOLD)],
            [(f"  {', '.join(NAMES)}", DIM)],
            [("  a word alone is a Call-ID; values with spaces stand in quotes", DIM)],
            [("With the mouse: click a line, a head to sort by it, a key at the foot; the wheel scrolls.", PLAIN)],
        ]
        self.app.push_screen(HelpView(self.board, type(self), more))

    def do_show(self) -> None:
        """Show the ladder."""
        self._open(legs=False)

    def do_extended(self) -> None:
        """Show the ladder with other legs."""
        self._open(legs=True)

    def do_raw(self) -> None:
        """Show the messages."""
        call_ids = self.board.targets(self._row_id())[:_MOST_OPENED]
        if call_ids:
            self.app.push_screen(LadderView(self.board, call_ids, raw=True))

    def do_select(self) -> None:
        """Select the call, or not any more."""
        call_id = self._row_id()
        if call_id is not None:
            if call_id in self.board.selected:
                del self.board.selected[call_id]
            else:
                self.board.selected[call_id] = None
            self.sheet.move(1)

    def do_save(self) -> None:
        """Save calls."""
        ask_where(self, self.board, self.board.targets(self._row_id()), legs=False)

    def do_search(self) -> None:
        """Narrow the list by a text."""
        self.ask("Text:", self.board.text, self._narrow)

    def do_filter(self) -> None:
        """Ask for another search."""
        self.ask("Filter:", self.board.search.line, self._filter)

    def do_unfilter(self) -> None:
        """Search without filters."""
        self._narrow("")
        looks = [word for word in self.board.search.words if word not in self.board.search.filters.words]
        self._seek(Search(looks))

    def do_pause(self) -> None:
        """Pause, or go on."""
        self.board.pause()
        self.tick()

    def do_clear(self) -> None:
        """Clear the list."""
        self.board.clear()
        self.tick()

    def do_settings(self) -> None:
        """Show the settings."""
        self.app.push_screen(SettingsView(self.board))

    def do_columns(self) -> None:
        """Choose the columns."""
        self.app.push_screen(ColumnsView(self.board))

    def do_sort_left(self) -> None:
        """Sort by the column to the left."""
        self._sort_by(-1)

    def do_sort_right(self) -> None:
        """Sort by the column to the right."""
        self._sort_by(1)

    def do_reverse(self) -> None:
        """Sort the other way round."""
        rows = self.board.rows
        rows.sort(rows.by, downwards=not rows.downwards)
        self.tick()

    def do_follow(self) -> None:
        """Stay with the newest call, or not."""
        looks = self.board.looks
        looks.follows = not looks.follows
        self.tell("the cursor stays with the newest call" if looks.follows else "the cursor stays with its call")

    def do_calls_only(self) -> None:
        """Hide what is no call, or not."""
        self.board.looks.calls_only = not self.board.looks.calls_only
        self._narrow(self.board.text)

    def do_colours(self) -> None:
        """Colour otherwise."""
        self.board.looks.colours = following(self.board.looks.colours, _COLOURS)

    def do_left(self) -> None:
        """Show the columns to the left."""
        self._first = max(0, self._first - 1)

    def do_right(self) -> None:
        """Show the columns to the right."""
        columns = self.board.looks.columns
        shown = len(self._fitting(self.sheet.size.width))
        if self._first + shown < len(columns):
            self._first += 1

    def do_notes(self) -> None:
        """Show the notes."""
        board = self.board
        lines: list[Line] = [[(printable(text), MARKS["failure"])] for text in board.problems]
        lines += [[(printable(text), PLAIN)] for text in board.notes]
        self.app.push_screen(TextView(board, "Notes", lambda _width: lines or [[("there are none", PLAIN)]]))

    def do_leave(self) -> None:
        """Stop reading, deselect, or quit."""
        if self.board.searched is None and not self.board.broken:
            self.board.hold()
        elif self.board.selected:
            self.board.selected.clear()
        else:
            self.confirm("Quit?", self.app.exit)

    def do_quit(self) -> None:
        """Quit."""
        self.app.exit()

    def _open(self, *, legs: bool) -> None:
        call_ids = self.board.targets(self._row_id())
        if len(call_ids) > _MOST_OPENED:
            self.tell(f"a ladder takes {_MOST_OPENED} calls, and {len(call_ids)} are selected", error=True)
        elif call_ids:
            self.app.push_screen(LadderView(self.board, call_ids, legs=legs))

    def _filter(self, line: str) -> None:
        try:
            search = Search.parse(line)
            search.query(self.board.now())
            search.rules  # noqa: B018 - what is wrong is told before the list goes
        except ConfigError as error:
            self.ask("Filter:", line, self._filter)
            self.tell(str(error), error=True)
            return
        self._seek(search)

    def _seek(self, search: Search) -> None:
        board = self.board
        if search.values("columns"):
            board.looks.columns = search.columns
        if search.values("sort"):
            by, downwards = search.sort
            board.rows.sort(by, downwards=downwards)
        board.seek(search)
        self._at = None
        self.sheet.move_to(0)
        self.tick()

    def _narrow(self, text: str) -> None:
        self.board.narrow(text.strip())
        self.tick()

    def _sort_by(self, step: int) -> None:
        rows, columns = self.board.rows, list(self.board.looks.columns)
        here = columns.index(rows.by) if rows.by in columns else 0
        rows.sort(columns[(here + step) % len(columns)], downwards=rows.downwards)
        self.tick()

    def _row_id(self) -> str | None:
        rows = self.board.rows
        return rows.at(self.sheet.cursor).call_id if self.sheet.cursor < len(rows) else None

    def _keep_cursor(self) -> None:
        """Keep the cursor on its call, or on the newest one."""
        rows, sheet = self.board.rows, self.sheet
        newest = 0 if rows.downwards else max(0, len(rows) - 1)
        if self.board.looks.follows and self._follows_now:
            place = newest
        else:
            found = rows.place(self._at)
            place = sheet.cursor if found is None else found
        sheet.move_to(place)
        self._at = self._row_id()
        self._was = len(rows)

    @property
    def _follows_now(self) -> bool:
        """Whether the cursor was on the newest call at the last look."""
        return self._at is None or (self.sheet.cursor == (0 if self.board.rows.downwards else self._was - 1))

    _was = 0
    """How many calls there were at the last look."""

    def _fitting(self, width: int) -> list[tuple[Column, int]]:
        """Return the columns that fit, whole, and their widths."""
        columns = self.board.looks.columns
        self._first = min(self._first, len(columns) - 1)
        room = width - _MARK - _MORE
        found: list[tuple[Column, int]] = []
        for column in columns[self._first :]:
            if column.width > room and found:
                break
            found.append((column, min(column.width, max(1, room))))
            room -= column.width + 1
        room += 1
        if room > 0 and found:
            names = [column.name for column, _ in found]
            wanting = [name for name in _GREEDY if name in names][:2] or names[-1:]
            for name, more in zip(wanting, _shares(room, len(wanting)), strict=True):
                found = [(column, size + more if column.name == name else size) for column, size in found]
        return found

    def _head(self, width: int) -> Line:
        rows = self.board.rows
        fits = self._fitting(width)
        parts = []
        for column, size in fits:
            arrow = ("↓" if rows.downwards else "↑") if column == rows.by else ""
            parts.append(_cell(column.title + arrow, size, right=column.right))
        more = self._first + len(fits) < len(self.board.looks.columns)
        line = ("< " if self._first else "  ") + " ".join(parts)
        if more:
            line += " " * (width - cells(line) - 1) + ">"
        return [(line, PLAIN)]

    def _filter_line(self, width: int) -> Line:
        board = self.board
        line = board.search.line
        text = f" Filter: {printable(line)}" if line else " no filter"
        if board.text:
            text += f"   Text: {printable(board.text)}"
        if board.looks.calls_only:
            text += "   calls only"
        return [(fitted(text, width), PLAIN if line or board.text else DIM)]

    def _line(self, place: int, width: int) -> Line:
        row = self.board.rows.at(place)
        selected = row.call_id in self.board.selected
        colours = self.board.looks.colours
        mark = MARKS[row.mark]
        whole = mark if colours == "line" else PLAIN
        line: list[tuple[str, Style]] = [("* " if selected else "  ", BOLD)]
        for column, size in self._fitting(width):
            text = _cell(column.text(row), size, right=column.right)
            line += [(text, mark if colours == "state" and column.name == "state" else whole), (" ", whole)]
        return line[:-1]


def _shares(room: int, count: int) -> list[int]:
    return [room // count + (number < room % count) for number in range(count)]


def _cell(text: str, width: int, *, right: bool) -> str:
    text = fitted(text, width)
    padding = " " * (width - cells(text))
    return padding + text if right else text + padding
