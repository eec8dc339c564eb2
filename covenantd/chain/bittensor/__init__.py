"""A Bittensor subnet as a `Chain`. The SDK knows only asyncio and takes most of a second to import: it is imported
when the first call needs it, in the thread that `link` and all that `reading` asks run in."""
