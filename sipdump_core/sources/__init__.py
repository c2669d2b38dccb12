"""What brings records: HEP, KSR, asyncio."""
