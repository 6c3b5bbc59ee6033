-- The latest deliveries and what became of them, newest first.
SELECT fingerprint, occurrence, receiver, event, document, at, reason, attempts, next_at, error,
       state, settled_at, outcome
FROM deliveries ORDER BY seq DESC LIMIT :limit;
