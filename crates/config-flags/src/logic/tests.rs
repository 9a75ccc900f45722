//! What rules come to, operation by operation, and what they may cost.

use serde_json::{Value, json};

use super::{Rule, TooCostly};
use crate::definition::SharedRules;

fn apply(rule: &Value, data: &Value) -> Result<Value, TooCostly> {
    Rule::new(rule, &SharedRules::default()).unwrap().apply(data)
}

#[test]
fn operations_come_to_what_is_specified() {
    let data = json!({
        "name": "ada", "age": 36, "tags": ["rust", "sql"], "nothing": null, "empty": "",
        "address": {"city": "Turin", "rooms": [3, 5]}, "carts": [{"sum": 10}, {"sum": 32}]
    });
    for (rule, result) in [
        (json!({"var": "name"}), json!("ada")),
        (json!({"var": ["address.city"]}), json!("Turin")),
        (json!({"var": "address.rooms.1"}), json!(5)),
        (json!({"var": ["surname", "?"]}), json!("?")),
        (json!({"var": ["nothing", 1]}), json!(1)),
        (json!({"var": "name.length"}), Value::Null),
        (json!({"var": ""}), data.clone()),
        (json!({"var": []}), data.clone()),
        (json!({"missing": ["name", "surname", "empty"]}), json!(["surname", "empty"])),
        (json!({"missing": {"merge": ["age", "height"]}}), json!(["height"])),
        (json!({"missing_some": [1, ["name", "surname"]]}), json!([])),
        (json!({"missing_some": [2, ["name", "surname"]]}), json!(["surname"])),
        (json!({"if": [false, 1, {">": [{"var": "age"}, 30]}, 2, 3]}), json!(2)),
        (json!({"if": [false, 1]}), Value::Null),
        (json!({"if": ["x"]}), json!("x")),
        (json!({"and": [1, "", 2]}), json!("")),
        (json!({"and": [1, 2]}), json!(2)),
        (json!({"or": [0, [], "x", 1]}), json!("x")),
        (json!({"!": [[]]}), json!(true)),
        (json!({"!": "0"}), json!(false)),
        (json!({"!!": [{"var": "address"}]}), json!(true)),
        (json!({"==": [1, "1"]}), json!(true)),
        (json!({"==": [null, 0]}), json!(false)),
        (json!({"==": [true, 1]}), json!(true)),
        (json!({"==": ["a", 0]}), json!(false)),
        (json!({"===": [1, 1.0]}), json!(true)),
        (json!({"===": [1, "1"]}), json!(false)),
        (json!({"!=": [1, "1"]}), json!(false)),
        (json!({"!==": [1, "1"]}), json!(true)),
        (json!({"<": [1, "2"]}), json!(true)),
        (json!({"<": ["10", "9"]}), json!(true)),
        (json!({"<": ["x", 1]}), json!(false)),
        (json!({"<": [1, 2, 3]}), json!(true)),
        (json!({"<=": [1, 1, 0]}), json!(false)),
        (json!({">": [2, 1]}), json!(true)),
        (json!({">=": [{"var": "age"}, 36]}), json!(true)),
        (json!({"max": [1, 7, "3"]}), json!(7)),
        (json!({"min": [1, -7]}), json!(-7)),
        (json!({"max": []}), Value::Null),
        (json!({"+": [1, "2", 0.5]}), json!(3.5)),
        (json!({"+": "3.5"}), json!(3.5)),
        (json!({"+": ["x", 1]}), Value::Null),
        (json!({"*": [3, 4]}), json!(12)),
        (json!({"-": [3, 4]}), json!(-1)),
        (json!({"-": 3}), json!(-3)),
        (json!({"/": [1, 2]}), json!(0.5)),
        (json!({"/": [1, 0]}), Value::Null),
        (json!({"%": [7, 3]}), json!(1)),
        (json!({"map": [{"var": "carts"}, {"var": "sum"}]}), json!([10, 32])),
        (json!({"map": [{"var": "none"}, 1]}), json!([])),
        (json!({"filter": [[1, 2, 3], {">": [{"var": ""}, 1]}]}), json!([2, 3])),
        (
            json!({"reduce": [{"var": "carts"}, {"+": [{"var": "accumulator"}, {"var": "current.sum"}]}, 0]}),
            json!(42),
        ),
        (json!({"all": [[1, 2], {">": [{"var": ""}, 0]}]}), json!(true)),
        (json!({"all": [[], true]}), json!(false)),
        (json!({"none": [[], true]}), json!(true)),
        (json!({"none": [[0, 1], {"var": ""}]}), json!(false)),
        (json!({"some": [[0, 1], {"var": ""}]}), json!(true)),
        (json!({"some": [[], true]}), json!(false)),
        (json!({"merge": [1, [2, [3]], []]}), json!([1, 2, [3]])),
        (json!({"in": ["sql", {"var": "tags"}]}), json!(true)),
        (json!({"in": ["1", [1]]}), json!(false)),
        (json!({"in": ["ad", {"var": "name"}]}), json!(true)),
        (json!({"in": ["x", null]}), json!(false)),
        (json!({"cat": ["a", 1, null, true, [2, 3]]}), json!("a1true2,3")),
        (json!({"substr": ["insula", 2]}), json!("sula")),
        (json!({"substr": ["insula", -2]}), json!("la")),
        (json!({"substr": ["größe", 1, 3]}), json!("röß")),
        (json!({"substr": ["insula", 1, -2]}), json!("nsu")),
        (json!({"substr": ["insula", 9]}), json!("")),
        (json!({"starts_with": ["192.168.1.7", "192.168."]}), json!(true)),
        (json!({"ends_with": [{"var": "age"}, "6"]}), Value::Null),
        (json!({}), json!({})),
        (json!([{"var": "age"}, 1]), json!([36, 1])),
    ] {
        assert_eq!(apply(&rule, &data), Ok(result), "{rule}");
    }
}

#[test]
fn what_is_no_rule_is_refused_when_it_is_read() {
    for (rule, pointer) in [
        (json!({"nope": 1}), ""),
        (json!({"var": "a", "if": []}), ""),
        (json!({"if": [true, {"log": 1}]}), "/if/1"),
        (json!({"map": [[1], {"/": [1, {"a/b": 1}]}]}), "/map/1/~1/1"),
        (json!({"map": [1]}), "/map"),
        (json!({"map": {"var": "x"}}), "/map"),
        (json!({"==": [1, 2, 3]}), "/=="),
        (json!({"sem_ver": ["1", "="]}), "/sem_ver"),
        (json!({"$ref": 1}), ""),
        (json!({"$ref": "x"}), ""),
    ] {
        let error = Rule::new(&rule, &SharedRules::default()).unwrap_err();
        assert_eq!(error.pointer, pointer, "{rule}: {}", error.detail);
    }
    assert!(Rule::check(&json!({"$ref": "x"})).is_ok(), "it may come later");
    let long = json!({"or": vec![json!(1); 20_000]});
    assert!(Rule::check(&long).is_err());
}

/// Doubles a text with every member: 2^64 bytes where nothing stopped it.
#[test]
fn a_rule_that_grows_is_stopped() {
    let doubling = json!({"reduce": [
        (0..64).collect::<Vec<_>>(),
        {"cat": [{"var": "accumulator"}, {"var": "accumulator"}]},
        "x"
    ]});
    assert_eq!(apply(&doubling, &json!({})), Err(TooCostly));
    let numbers: Vec<u32> = (0..100).collect();
    let cubed = json!({"map": [numbers, {"map": [numbers, {"map": [numbers, 1]}]}]});
    assert_eq!(apply(&cubed, &json!({})), Err(TooCostly));
    let squared = json!({"map": [numbers, {"map": [numbers, 1]}]});
    assert!(apply(&squared, &json!({})).is_ok(), "what is usual is far from the bound");
    let large = json!({"all": vec!["x".repeat(1_000); 10_000]});
    let copied = json!({"merge": [{"var": "all"}, {"var": "all"}]});
    assert_eq!(apply(&copied, &large), Err(TooCostly));
}

#[test]
fn shared_rules_that_multiply_are_refused() {
    let mut shared = SharedRules::default();
    shared.insert("r0", json!({"var": "x"}));
    for level in 1..30 {
        let below = format!("r{}", level - 1);
        shared.insert(format!("r{level}"), json!({"and": [{"$ref": below}, {"$ref": below}]}));
    }
    assert!(Rule::new(&json!({"!": {"$ref": "r5"}}), &shared).is_ok());
    assert!(Rule::new(&json!({"!": {"$ref": "r29"}}), &shared).is_err());
}
