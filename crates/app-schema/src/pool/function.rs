//! Functions and procedures in the pool form. They run as the tenant, except
//! where a definition calls them: those get a fixed search path.

use pg_query::protobuf::{
    self, AlterFunctionStmt, CreateFunctionStmt, DefElem, DefElemAction, FunctionParameter,
    FunctionParameterMode, ObjectType, ObjectWithArgs, VariableSetKind, VariableSetStmt,
};
use pg_query::{Node, NodeEnum};

use super::ast::{last_name, node, string};
use super::model::{Function, calls_of};
use super::{PINNED_SEARCH_PATH, Rewriter, Runs};
use crate::body::{self, Body};
use crate::plain::is_true;
use crate::refusal::RefusalKind;
use crate::syntax::deparse;
use crate::tokens::{has_on_conflict, widen_on_conflict};

impl Rewriter<'_> {
    pub(super) fn create_function(&mut self, create: &CreateFunctionStmt) {
        let name = last_name(&create.funcname);
        if body::option(create, "security").is_some_and(is_on) {
            let reason = "a SECURITY DEFINER function runs as the owner of the tables, not as the tenant that calls it";
            self.refuse(0, RefusalKind::Function, reason);
            return;
        }
        let language = body::language(create);
        if language != "sql" && language != "plpgsql" {
            let reason = format!("functions in a pool are written in SQL or PL/pgSQL, not in {language}");
            self.refuse(0, RefusalKind::Function, reason);
            return;
        }
        let body = match body::read(create, self.text) {
            Ok(body) => body,
            Err(error) => {
                self.refuse(0, RefusalKind::Function, format!("the body of {name} cannot be read: {error}"));
                return;
            }
        };
        self.note_function(&name, create, &body);
        self.emit_function(create, &body);
    }

    fn note_function(&mut self, name: &str, create: &CreateFunctionStmt, body: &Body) {
        let arguments = input_types(&create.parameters);
        let signature = signature_of(&arguments);
        let mut calls = calls_of(&body.facts);
        calls.extend(calls_of(&crate::facts::Facts::of(&super::ast::json(&create.parameters))));
        let function = Function {
            arguments,
            signature: signature.clone(),
            is_trigger: body::is_trigger(create),
            calls,
            touches_table: body.touches_table.clone(),
            beyond_static: body.beyond_static.clone(),
            is_pinned: false,
        };
        let all = self.model.functions.entry(name.to_owned()).or_default();
        all.retain(|known| known.signature != signature);
        all.push(function);
    }

    fn emit_function(&mut self, create: &CreateFunctionStmt, body: &Body) {
        if body.facts.strings.iter().any(|text| has_on_conflict(text)) {
            let reason = "a text with ON CONFLICT (…) would not find its unique index in a pool, where the tenant's \
                column comes first: write the statement out instead of making it from text";
            self.refuse(0, RefusalKind::Function, reason);
        }
        if body.facts.conflict_targets == 0 {
            self.emit_unchanged(Runs::Owner);
            return;
        }
        let widened =
            body::quoted_body(create).and_then(|text| widen_on_conflict(&text, body.facts.conflict_targets));
        let Some(widened) = widened else {
            let reason = "its ON CONFLICT cannot be rewritten: put the body in quotes, and name no function \"conflict\"";
            self.refuse(0, RefusalKind::Function, reason);
            return;
        };
        let mut rewritten = create.clone();
        for option in &mut rewritten.options {
            if let Some(NodeEnum::DefElem(element)) = &mut option.node
                && element.defname == "as"
            {
                let list = protobuf::List { items: vec![string(&widened)] };
                element.arg = Some(Box::new(node(NodeEnum::List(list))));
            }
        }
        self.emit_tree(NodeEnum::CreateFunctionStmt(Box::new(rewritten)), Runs::Owner);
    }

    pub(super) fn alter_function(&mut self, alter: &AlterFunctionStmt) {
        for action in &alter.actions {
            let Some(NodeEnum::DefElem(option)) = &action.node else { continue };
            let reason = match option.defname.as_str() {
                "security" if is_true(option) => {
                    "a SECURITY DEFINER function runs as the owner of the tables"
                }
                "leakproof" if is_true(option) => {
                    "LEAKPROOF lets a function look at rows before row-level security does"
                }
                "support" => "SUPPORT is for functions written in C",
                "set" => {
                    "settings of a function are decided where it is created: use CREATE OR REPLACE FUNCTION"
                }
                _ => continue,
            };
            self.refuse(option.location, RefusalKind::Function, reason);
        }
        self.emit_unchanged(Runs::Owner);
    }

    /// Fixes the search path of the functions that may run as the owner of the
    /// tables, once they are called from a definition.
    pub(super) fn pin_functions(&mut self) {
        for name in self.model.functions_run_as_owner() {
            let all = self.model.functions.get_mut(&name).into_iter().flatten();
            let open: Vec<_> = all.filter(|function| !function.is_pinned).collect();
            let mut pins = Vec::new();
            for function in open {
                function.is_pinned = true;
                pins.push(pin(&name, &function.arguments));
            }
            for statement in pins {
                self.emit_tree(statement, Runs::Owner);
            }
        }
    }
}

fn is_on(node: &Node) -> bool {
    is_true(&DefElem { arg: Some(Box::new(node.clone())), ..DefElem::default() })
}

/// The types by which PostgreSQL tells functions of one name apart.
fn input_types(parameters: &[Node]) -> Vec<Node> {
    let parameter = |node: &Node| match &node.node {
        Some(NodeEnum::FunctionParameter(parameter)) if is_input(parameter) => parameter.arg_type.clone(),
        _ => None,
    };
    parameters.iter().filter_map(parameter).map(|type_name| node(NodeEnum::TypeName(type_name))).collect()
}

fn is_input(parameter: &FunctionParameter) -> bool {
    !matches!(
        FunctionParameterMode::try_from(parameter.mode),
        Ok(FunctionParameterMode::FuncParamOut | FunctionParameterMode::FuncParamTable)
    )
}

/// `ALTER ROUTINE name(types) SET search_path TO …`
fn pin(name: &str, arguments: &[Node]) -> NodeEnum {
    let constant = |text: &&str| {
        let value = protobuf::a_const::Val::Sval(protobuf::String { sval: (*text).to_owned() });
        node(NodeEnum::AConst(protobuf::AConst { isnull: false, location: -1, val: Some(value) }))
    };
    let set = VariableSetStmt {
        kind: VariableSetKind::VarSetValue as i32,
        name: "search_path".to_owned(),
        args: PINNED_SEARCH_PATH.iter().map(constant).collect(),
        ..VariableSetStmt::default()
    };
    let action = DefElem {
        defname: "set".to_owned(),
        arg: Some(Box::new(node(NodeEnum::VariableSetStmt(set)))),
        defaction: DefElemAction::DefelemUnspec as i32,
        ..DefElem::default()
    };
    let routine = ObjectWithArgs {
        objname: vec![string(name)],
        objargs: arguments.to_vec(),
        ..ObjectWithArgs::default()
    };
    NodeEnum::AlterFunctionStmt(AlterFunctionStmt {
        objtype: ObjectType::ObjectRoutine as i32,
        func: Some(routine),
        actions: vec![node(NodeEnum::DefElem(Box::new(action)))],
    })
}

/// The types as text, as far as they tell functions apart.
pub(super) fn signature_of(arguments: &[Node]) -> String {
    deparse(pin("f", arguments)).unwrap_or_default()
}
