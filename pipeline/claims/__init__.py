"""The tutorial's claims: the comparison models they need, and the ledger of their verdicts.
May import evaluation.results, params, stats and storage; no torch."""
