"""The control sockets: BINRPC, JSON-RPC, and the commands behind them."""
