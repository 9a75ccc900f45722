-- What a plan gives a tenant of the PostgreSQL front, beside the number of its
-- sessions. Null is: no limit, as the front is set, none kept open.

alter table plans
    add database_weight                int not null default 1 check (database_weight > 0),
    add database_backends              int check (database_backends > 0),
    add database_backends_warm         int check (database_backends_warm >= 0),
    add statement_timeout_ms           int check (statement_timeout_ms > 0),
    add idle_in_transaction_timeout_ms int check (idle_in_transaction_timeout_ms > 0);
