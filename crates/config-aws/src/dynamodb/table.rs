//! The table: what is asked of DynamoDB, and how its answers are understood.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, ConditionCheck, Delete, DeleteRequest,
    KeySchemaElement, KeyType, Put, ScalarAttributeType, TransactWriteItem, WriteRequest,
};
use insula_config_model::{BackendFault, Scope};

use super::item::{Attributes, Item, PK, SK, partition, place};
use crate::client::Faults;

/// The most deletions in one request.
const DELETIONS_MAX: usize = 25;

/// A part of a transaction.
pub(super) enum Change {
    /// An item where there is none.
    PutNew(Attributes),
    /// The newest value, where it is as it was seen.
    PutOver { item: Attributes, seen: Option<Item> },
    /// Labels, where they were changed this often.
    PutLabels { item: Attributes, edits: i64 },
    /// Nothing, where there is this item.
    IsThere(Attributes),
    /// Nothing, where labels were changed this often.
    LabelsAre { place: Attributes, edits: i64 },
    /// An item goes.
    Delete(Attributes),
}

#[derive(Debug)]
pub(super) struct Table {
    client: Client,
    name: String,
    faults: Faults,
}

/// A condition with what stands for names and values in it.
#[derive(Default)]
struct Condition {
    text: String,
    names: HashMap<String, String>,
    values: Attributes,
}

impl Condition {
    /// That an attribute is this, or is not there.
    fn and(mut self, name: &str, value: Option<AttributeValue>) -> Self {
        let joined = if self.text.is_empty() { "" } else { " AND " };
        self.names.insert(format!("#{name}"), name.to_owned());
        match value {
            Some(value) => {
                self.text += &format!("{joined}#{name} = :{name}");
                self.values.insert(format!(":{name}"), value);
            }
            None => self.text += &format!("{joined}attribute_not_exists(#{name})"),
        }
        self
    }

    fn values(&self) -> Option<Attributes> {
        Some(self.values.clone()).filter(|values| !values.is_empty())
    }
}

fn as_seen(seen: Option<Item>) -> Condition {
    let Some(seen) = seen else { return Condition::default().and(SK, None) };
    let number = seen.version.map(|version| AttributeValue::N(version.to_string()));
    Condition::default()
        .and("version", number)
        .and("digest", seen.digest.map(AttributeValue::S))
        .and("value", seen.value.map(AttributeValue::S))
}

fn edited(edits: i64) -> Condition {
    let edits = Some(edits).filter(|edits| *edits > 0);
    Condition::default().and("edits", edits.map(|edits| AttributeValue::N(edits.to_string())))
}

impl Table {
    pub(super) fn new(backend: &str, client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned(), faults: Faults(backend.to_owned()) }
    }

    pub(super) fn backend(&self) -> &str {
        &self.faults.0
    }

    pub(super) fn busy(&self) -> BackendFault {
        self.faults.away("others kept writing in between")
    }

    fn fault<E>(&self, error: SdkError<E>) -> BackendFault
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let code = error.code().map(str::to_owned);
        self.faults.of(code.as_deref(), error)
    }

    pub(super) async fn create(&self) -> Result<(), BackendFault> {
        let mut request =
            self.client.create_table().table_name(&self.name).billing_mode(BillingMode::PayPerRequest);
        for (name, kind) in [(PK, KeyType::Hash), (SK, KeyType::Range)] {
            let attribute = AttributeDefinition::builder()
                .attribute_name(name)
                .attribute_type(ScalarAttributeType::S)
                .build()
                .map_err(|error| self.faults.away(error))?;
            let key = KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
            let key = key.map_err(|error| self.faults.away(error))?;
            request = request.attribute_definitions(attribute).key_schema(key);
        }
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("ResourceInUseException") => Ok(()),
            Err(error) => Err(self.fault(error)),
        }
    }

    pub(super) async fn get(&self, scope: &Scope, sort: String) -> Result<Option<Attributes>, BackendFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let answer = request.set_key(Some(place(scope, sort))).send().await;
        Ok(answer.map_err(|error| self.fault(error))?.item)
    }

    /// The items of a scope from one sort key to another, both included.
    pub(super) async fn between(
        &self,
        scope: &Scope,
        from: &str,
        to: &str,
        forward: bool,
        limit: u32,
    ) -> Result<Vec<Attributes>, BackendFault> {
        let (mut found, mut start) = (Vec::new(), None);
        while found.len() < limit as usize {
            let missing = (limit as usize - found.len()).min(1_000);
            let answer = self
                .client
                .query()
                .table_name(&self.name)
                .consistent_read(true)
                .key_condition_expression("#PK = :PK AND #SK BETWEEN :from AND :to")
                .expression_attribute_names("#PK", PK)
                .expression_attribute_names("#SK", SK)
                .expression_attribute_values(":PK", AttributeValue::S(partition(scope)))
                .expression_attribute_values(":from", AttributeValue::S(from.to_owned()))
                .expression_attribute_values(":to", AttributeValue::S(to.to_owned()))
                .scan_index_forward(forward)
                .limit(i32::try_from(missing).unwrap_or(i32::MAX))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| self.fault(error))?;
            found.extend(answer.items.unwrap_or_default());
            start = answer.last_evaluated_key;
            if start.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// Items of all scopes whose sort keys begin with this, and where it goes on.
    pub(super) async fn scan(
        &self,
        from: Option<&str>,
        family: &str,
        limit: u32,
    ) -> Result<(Vec<Attributes>, Option<String>), BackendFault> {
        let start = from.and_then(|from| from.split_once('\n')).map(|(partition, sort)| {
            HashMap::from([
                (PK.to_owned(), AttributeValue::S(partition.to_owned())),
                (SK.to_owned(), AttributeValue::S(sort.to_owned())),
            ])
        });
        let answer = self
            .client
            .scan()
            .table_name(&self.name)
            .consistent_read(true)
            .filter_expression("begins_with(#SK, :family)")
            .expression_attribute_names("#SK", SK)
            .expression_attribute_values(":family", AttributeValue::S(family.to_owned()))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(|error| self.fault(error))?;
        let next = answer
            .last_evaluated_key
            .and_then(|key| Some(format!("{}\n{}", key.get(PK)?.as_s().ok()?, key.get(SK)?.as_s().ok()?)));
        Ok((answer.items.unwrap_or_default(), next))
    }

    /// Makes all changes, or none where a condition does not hold or somebody
    /// else is at it; whether they were made.
    pub(super) async fn transact(&self, changes: Vec<Change>) -> Result<bool, BackendFault> {
        let items: Result<Vec<TransactWriteItem>, BuildError> =
            changes.into_iter().map(|change| self.part(change)).collect();
        let items = items.map_err(|error| self.faults.away(error))?;
        match self.client.transact_write_items().set_transact_items(Some(items)).send().await {
            Ok(_) => Ok(true),
            Err(error) => match error.code() {
                Some("TransactionCanceledException" | "TransactionInProgressException") => {
                    self.canceled(error).map(|()| false)
                }
                _ => Err(self.fault(error)),
            },
        }
    }

    /// A transaction ends without effect for many reasons; those that another
    /// try does not mend are faults.
    fn canceled(
        &self,
        error: SdkError<aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError>,
    ) -> Result<(), BackendFault> {
        let service = error.as_service_error();
        let mended = service.is_none_or(|service| match service {
            aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError::TransactionCanceledException(
                canceled,
            ) => canceled.cancellation_reasons().iter().all(|reason| {
                matches!(reason.code(), None | Some("None" | "ConditionalCheckFailed" | "TransactionConflict"))
            }),
            _ => true,
        });
        if mended { Ok(()) } else { Err(self.faults.of(Some("ValidationException"), error)) }
    }

    fn part(&self, change: Change) -> Result<TransactWriteItem, BuildError> {
        let part = TransactWriteItem::builder();
        let put = |item, condition: Condition| {
            Put::builder()
                .table_name(&self.name)
                .set_item(Some(item))
                .condition_expression(&condition.text)
                .set_expression_attribute_values(condition.values())
                .set_expression_attribute_names(Some(condition.names))
                .build()
        };
        let check = |place, text: &str, condition: Condition| {
            ConditionCheck::builder()
                .table_name(&self.name)
                .set_key(Some(place))
                .condition_expression(text)
                .set_expression_attribute_values(condition.values())
                .set_expression_attribute_names(Some(condition.names))
                .build()
        };
        let part = match change {
            Change::PutNew(item) => part.put(put(item, Condition::default().and(SK, None))?),
            Change::PutOver { item, seen } => part.put(put(item, as_seen(seen))?),
            Change::PutLabels { item, edits } => part.put(put(item, edited(edits))?),
            Change::IsThere(place) => {
                let names = HashMap::from([("#SK".to_owned(), SK.to_owned())]);
                let condition = Condition { names, ..Condition::default() };
                part.condition_check(check(place, "attribute_exists(#SK)", condition)?)
            }
            Change::LabelsAre { place, edits } => {
                let condition = edited(edits);
                let text = condition.text.clone();
                part.condition_check(check(place, &text, condition)?)
            }
            Change::Delete(place) => {
                part.delete(Delete::builder().table_name(&self.name).set_key(Some(place)).build()?)
            }
        };
        Ok(part.build())
    }

    /// Deletes all items of a scope.
    pub(super) async fn clear(&self, scope: &Scope) -> Result<(), BackendFault> {
        loop {
            let found = self.places(scope).await?;
            if found.is_empty() {
                return Ok(());
            }
            for some in found.chunks(DELETIONS_MAX) {
                let deletions: Result<Vec<WriteRequest>, BuildError> = some.iter().map(deletion).collect();
                let deletions = deletions.map_err(|error| self.faults.away(error))?;
                let request = self.client.batch_write_item().request_items(&self.name, deletions);
                // What it leaves out is found by the next look.
                request.send().await.map_err(|error| self.fault(error))?;
            }
        }
    }

    /// Where items of a scope are, a thousand at a time.
    async fn places(&self, scope: &Scope) -> Result<Vec<Attributes>, BackendFault> {
        let answer = self
            .client
            .query()
            .table_name(&self.name)
            .consistent_read(true)
            .key_condition_expression("#PK = :PK")
            .projection_expression("#PK, #SK")
            .expression_attribute_names("#PK", PK)
            .expression_attribute_names("#SK", SK)
            .expression_attribute_values(":PK", AttributeValue::S(partition(scope)))
            .limit(1_000)
            .send()
            .await
            .map_err(|error| self.fault(error))?;
        Ok(answer.items.unwrap_or_default())
    }
}

fn deletion(place: &Attributes) -> Result<WriteRequest, BuildError> {
    let deletion = DeleteRequest::builder().set_key(Some(place.clone())).build()?;
    Ok(WriteRequest::builder().delete_request(deletion).build())
}
