//! Sampling that adapts: what metering may cost, and the n that keeps to it.

mod budget;
mod controller;
mod cost;
pub mod runtime;

pub use self::{
    budget::{Budget, BudgetError},
    controller::{Controller, Load, STEPS},
    cost::CostModel,
};
