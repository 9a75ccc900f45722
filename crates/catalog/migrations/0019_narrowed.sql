-- A tenant whose cutover is near does its work with few backends: each that it
-- has then is one that has to end at its old place, and to be opened at its new
-- one, while its clients wait.

alter table placements add narrowed boolean not null default false;
