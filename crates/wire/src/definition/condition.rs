//! Parses conditions on properties and attributes.

use serde_json::Value;

use super::reader::{Code, Reader};
use askwhen_domain::survey::filter::{self, Condition, Op};

/// The most conditions in one list.
pub const MAX_CONDITIONS: usize = 50;

/// `where: [{property, op, value}]`
pub fn conditions(reader: &mut Reader<'_>) -> Vec<Condition> {
    reader.objects("where", MAX_CONDITIONS, |inner| condition(inner, "property"))
}

/// `{property, op, value}`; `name` is what the first member is called here.
pub fn condition(reader: &mut Reader<'_>, name: &str) -> Condition {
    let property = reader.required_id(name).unwrap_or_default();
    if reader.raw("op").is_none() {
        reader.missing("op");
    }
    let op = reader.choice("op", &Op::ALL);
    let value = reader.raw("value").cloned().unwrap_or(Value::Null);
    if let Some(op) = op {
        if value.is_null() && !op.is_unary() {
            reader.missing("value");
        } else if let Err(why) = filter::check_operand(op, &value) {
            reader.fault(Code::Invalid, "value", why);
        }
    }
    Condition { property, op: op.unwrap_or(Op::Exists), value }
}
