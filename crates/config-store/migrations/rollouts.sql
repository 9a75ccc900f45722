-- Staged rollouts are found by their keys, in whichever scopes they are.
create index config_values_rollouts on config_values (key, scope)
    where key >= 'insula_rollout/' and key < 'insula_rollout0';
