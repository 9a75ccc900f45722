-- What drivers have been told of this column does not hold any more.
ALTER TABLE things ALTER COLUMN n TYPE bigint;
