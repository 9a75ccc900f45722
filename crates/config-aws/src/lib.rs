//! Values of the configuration kept in Amazon DynamoDB or in AWS Systems Manager
//! Parameter Store, where other programs can read and write them. Behind the
//! feature `aws`: without it there is nothing here.

#[cfg(feature = "aws")]
mod client;
#[cfg(feature = "aws")]
mod dynamodb;
#[cfg(feature = "aws")]
mod parameters;

#[cfg(feature = "aws")]
pub use client::AwsSettings;
#[cfg(feature = "aws")]
pub use dynamodb::DynamoBackend;
#[cfg(feature = "aws")]
pub use parameters::ParameterBackend;
