-- Ends a delivery: told, given up, or nothing left to tell.
UPDATE deliveries
SET state = :state, settled_at = :at, outcome = :outcome, next_at = NULL,
    attempts = attempts + :attempted
WHERE id = :id AND state = 'pending';
