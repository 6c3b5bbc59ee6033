-- Queues a delivery once; one that was given up may be queued again.
INSERT INTO deliveries (id, fingerprint, occurrence, receiver, event, reason, document, at)
VALUES (:id, :fingerprint, :occurrence, :receiver, :event, :reason, :document, :at)
ON CONFLICT (id) DO UPDATE
SET state = 'pending', attempts = 0, next_at = NULL, error = '', settled_at = NULL, outcome = '',
    at = excluded.at, document = excluded.document
WHERE deliveries.state IN ('dead', 'dropped');
