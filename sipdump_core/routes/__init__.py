"""The event route: script language, KEMI in Python and Lua."""
