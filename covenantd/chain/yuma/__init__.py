"""Who earned what: from weights and stake to incentive, dividends and bonds (pure).

Every step is done in integers of 2^-32, floored where the chain's fixed point floors, so that one input has one
result on every machine: numpy's integers add up to the same in any order and with any vector width.
"""
