-- What became of the message that a resolved notice would follow.
SELECT state FROM deliveries
WHERE fingerprint = :fingerprint AND receiver = :receiver AND occurrence = :occurrence AND event = 'firing';
