"""Messages in, what happened out: calls, transactions, dialogs, legs, and the layout of a ladder.

This room knows no store. Its public names stand in their modules: :mod:`~sipdump_core.calls.tracker`,
:mod:`~sipdump_core.calls.call`, :mod:`~sipdump_core.calls.summary`, :mod:`~sipdump_core.calls.legs`,
:mod:`~sipdump_core.calls.ladder` and :mod:`~sipdump_core.calls.message`.
"""
