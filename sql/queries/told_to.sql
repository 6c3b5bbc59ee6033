-- Whether a receiver was ever told that this finding fires.
SELECT EXISTS (
    SELECT 1 FROM deliveries
    WHERE fingerprint = :fingerprint AND receiver = :receiver AND event = 'firing' AND state = 'delivered'
);
