//! The path that answers take through a survey. The widget follows the same rules;
//! `web/vectors` has the test cases of both.

use serde_json::Value;
use std::collections::BTreeMap;

use crate::survey::question::{END, Question, QuestionType};

/// What comes after a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step<'q> {
    /// The question at this index, further down.
    Question(usize),
    /// `end`, or the id of an ending.
    End(&'q str),
}

/// The questions that answers lead through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path<'q> {
    /// Indices of the questions on the path, in order.
    pub questions: Vec<usize>,
    /// Indices of required questions on the path without an answer.
    pub missing: Vec<usize>,
    /// `end`, or the id of the ending that the last rule names.
    pub end: &'q str,
}

/// Answers by question id.
pub type AnswerValues = BTreeMap<String, Value>;

/// Follows the answers from the first question on. Jumps go forward only, so the path has
/// at most as many steps as there are questions.
pub fn follow<'q>(questions: &'q [Question], answers: &AnswerValues) -> Path<'q> {
    let mut path = Path { questions: Vec::new(), missing: Vec::new(), end: END };
    let mut at = 0;
    while let Some(question) = questions.get(at) {
        let answer = answers.get(&question.question_id);
        path.questions.push(at);
        if question.lacks(answer) {
            path.missing.push(at);
        }
        match step(questions, at, answer) {
            Step::Question(next) => at = next,
            Step::End(end) => {
                path.end = end;
                break;
            }
        }
    }
    path
}

impl Path<'_> {
    /// Whether the path leads through the question with this id.
    pub fn has(&self, questions: &[Question], question_id: &str) -> bool {
        self.questions.iter().any(|index| questions[*index].question_id == question_id)
    }
}

fn step<'q>(questions: &'q [Question], at: usize, answer: Option<&Value>) -> Step<'q> {
    let fits = |when: &crate::survey::question::AnswerCondition| when.holds(answer);
    let rule = questions[at].next.iter().find(|rule| rule.when.as_ref().is_none_or(fits));
    match rule {
        Some(rule) => later(questions, at, &rule.goto).map_or(Step::End(&rule.goto), Step::Question),
        None if at + 1 < questions.len() => Step::Question(at + 1),
        None => Step::End(END),
    }
}

/// The index of a question that comes after index `at`.
pub fn later(questions: &[Question], at: usize, question_id: &str) -> Option<usize> {
    (at + 1..questions.len()).find(|index| questions[*index].question_id == question_id)
}

/// Indices of questions that no answers can reach. Each condition is assumed to hold for
/// some answers and to fail for others.
pub fn unreachable(questions: &[Question]) -> Vec<usize> {
    let mut reached = vec![false; questions.len()];
    reached.iter_mut().take(1).for_each(|first| *first = true);
    for (at, question) in questions.iter().enumerate() {
        if !reached[at] {
            continue;
        }
        let always = question.next.iter().position(|rule| rule.when.is_none());
        let may_fit = &question.next[..always.map_or(question.next.len(), |at| at + 1)];
        for target in may_fit.iter().filter_map(|rule| later(questions, at, &rule.goto)) {
            reached[target] = true;
        }
        if always.is_none() && at + 1 < questions.len() {
            reached[at + 1] = true;
        }
    }
    (0..questions.len()).filter(|at| !reached[*at]).collect()
}

impl Question {
    /// Whether the question is required and `answer` is none: missing, or an empty text or
    /// list.
    pub fn lacks(&self, answer: Option<&Value>) -> bool {
        let is_empty = match answer {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        self.required && self.kind != QuestionType::Info && is_empty
    }
}
