-- The answers of creating requests, each written in the transaction that made
-- the thing: sent again under the same key, a request gets the same answer.

drop table idempotency_keys;

create table idempotent_answers (
    actor          text not null,
    method         text not null,
    path           text not null,
    key            text not null,
    -- An HMAC of the request's content under the master key of this
    -- generation: the content may hold a password.
    request_hash   bytea not null,
    key_generation int not null,
    status         int not null,
    -- Where an operation carries the request out, the answer is the operation as it is then.
    operation_id   uuid,
    -- Else the body, with AES-256-GCM: it may hold a secret that is shown once.
    sealed_body    bytea,
    created_at     timestamptz not null,
    primary key (actor, method, path, key),
    check ((operation_id is null) <> (sealed_body is null))
);

create index idempotent_answers_age on idempotent_answers (created_at);
