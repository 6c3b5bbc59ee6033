-- Who has been told, or is going to be, that a finding that is not resolved fires.
SELECT d.fingerprint, d.receiver, max(d.occurrence)
FROM findings f JOIN deliveries d ON d.fingerprint = f.fingerprint
WHERE f.state IN ('open', 'held') AND d.event = 'firing' AND d.state IN ('pending', 'delivered')
GROUP BY d.fingerprint, d.receiver;
