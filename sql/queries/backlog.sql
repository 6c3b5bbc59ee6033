-- How many messages wait for each receiver.
SELECT receiver, count(*) FROM deliveries WHERE state = 'pending' GROUP BY receiver;
