"""Rules, and the ledger of what they found."""
