//! Notifications where tenants share a database: PostgreSQL's channels know no
//! tenants, so its own function is taken from them, and they get one that speaks
//! in channels which have names of their tenant's own.

/// The body of `insula.pg_notify(text, text)`, which has the right to notify
/// that tenants have not: it says it in a channel of the tenant's own. The key is
/// what the front begins a session with; a session that changes it speaks where
/// nobody listens. The name is computed as `insula_credentials::ChannelKey` does.
pub(super) const PG_NOTIFY_BODY: &str = "declare
  key bytea := pg_catalog.decode(coalesce(pg_catalog.current_setting('insula.channel_key', true), ''), 'hex');
begin
  if pg_catalog.length(key) operator(pg_catalog.<>) 32 then
    raise exception 'notifications of a shared database go through Insula''s front' using errcode = '0A000';
  elsif coalesce(channel, '') operator(pg_catalog.=) '' then
    raise exception 'channel name cannot be empty' using errcode = '22023';
  elsif pg_catalog.octet_length(channel) operator(pg_catalog.>) 63 then
    raise exception 'channel name too long' using errcode = '22023';
  end if;
  perform pg_catalog.pg_notify('insula_' operator(pg_catalog.||) pg_catalog.substr(pg_catalog.encode(
    pg_catalog.sha256(key operator(pg_catalog.||) pg_catalog.sha256(
      key operator(pg_catalog.||) pg_catalog.convert_to(channel, 'UTF8'))), 'hex'), 1, 40), payload);
end";

/// The statements that make the function.
pub(super) fn install() -> String {
    format!(
        "create schema if not exists insula;
         revoke all on schema insula from public;
         grant usage on schema insula to public;
         create or replace function insula.pg_notify(channel text, payload text) returns void
             language plpgsql volatile parallel restricted security definer set search_path = pg_catalog, pg_temp
             as $insula${PG_NOTIFY_BODY}$insula$;
         revoke all on function insula.pg_notify(text, text) from public;
         grant execute on function insula.pg_notify(text, text) to public;"
    )
}
