"""Who earned what: from weights and stake to incentive and dividends (pure)."""
