"""What happened: a header, then checksummed append-only entries. Base + ledger = the trained weights, bit for bit."""
