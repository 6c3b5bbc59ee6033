-- What one receiver is still to be told, in the order in which it was decided.
SELECT fingerprint, occurrence, receiver, event, document, at, reason, attempts, next_at, error
FROM deliveries WHERE state = 'pending' AND receiver = :receiver ORDER BY seq LIMIT :limit;
