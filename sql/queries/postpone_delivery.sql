-- Notes a failed attempt and when to try again.
UPDATE deliveries
SET attempts = attempts + 1, error = :error, next_at = :next_at
WHERE id = :id AND state = 'pending';
