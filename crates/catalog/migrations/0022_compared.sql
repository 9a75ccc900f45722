-- What both ends of a move were found equal in, for the worker that goes on where
-- another one has died: numbers and digests, no value of a row.
alter table moves add compared jsonb;
