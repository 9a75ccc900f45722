//! The workflows that a worker can run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::definition::{Definition, Outline, Workflow};
use crate::error::InvalidWorkflow;
use crate::log::WorkflowKey;

/// The workflows that a worker can run, each in one or more versions.
#[derive(Default)]
pub struct Registry {
    definitions: BTreeMap<WorkflowKey, Arc<Definition>>,
}

impl Registry {
    /// A registry without workflows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a workflow and what its steps work with.
    ///
    /// # Errors
    /// Where the definition breaks a rule, or stands here already.
    pub fn add<D, I>(&mut self, workflow: Workflow<D, I>, deps: &Arc<D>) -> Result<(), InvalidWorkflow>
    where
        D: Send + Sync + 'static,
        I: DeserializeOwned + Send + Sync + 'static,
    {
        let definition = Definition::new(workflow, deps)?;
        if self.definitions.contains_key(&definition.key) {
            let Outline { workflow, version, .. } = definition.outline;
            let rule = "it stands in the registry already".to_owned();
            return Err(InvalidWorkflow { workflow, version, rule });
        }
        self.definitions.insert(definition.key.clone(), Arc::new(definition));
        Ok(())
    }

    /// The workflows as people read them.
    #[must_use]
    pub fn outlines(&self) -> Vec<Outline> {
        self.definitions.values().map(|definition| definition.outline.clone()).collect()
    }

    pub(crate) fn keys(&self) -> Vec<WorkflowKey> {
        self.definitions.keys().cloned().collect()
    }

    pub(crate) fn find(&self, key: &WorkflowKey) -> Option<Arc<Definition>> {
        self.definitions.get(key).cloned()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.definitions.keys()).finish()
    }
}
