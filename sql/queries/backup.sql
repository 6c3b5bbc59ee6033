-- A consistent copy while others write; refuses a file that exists.
VACUUM INTO :target;
