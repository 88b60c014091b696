"""Ledger: the append-only events of one campaign, what they amount to, and the items behind them."""
