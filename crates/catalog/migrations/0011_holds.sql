-- A tenant whose transactions wait at the fronts, because it is being moved: by
-- which hold, and for how long at the most from when a front hears of it.

alter table placements
    add hold_id uuid,
    add hold_ms int check (hold_ms > 0),
    add constraint placements_hold check ((hold_id is null) = (hold_ms is null));
