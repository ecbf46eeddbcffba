//! Parses `endings` of a survey definition.

use super::question::MAX_TEXT_BYTES;
use super::reader::{Code, Reader};
use askwhen_domain::survey::question::{END, Ending, Question};
use askwhen_domain::webhook::address;

const MAX_ENDINGS: usize = 100;
const MAX_LINK_BYTES: usize = 4_096;

/// `endings: [{ending_id: thanks, text: "Thank you", link: "https://…"}]`
pub fn endings(reader: &mut Reader<'_>) -> Vec<Ending> {
    let endings = reader.objects("endings", MAX_ENDINGS, |inner| Ending {
        ending_id: inner.required_id("ending_id").unwrap_or_default(),
        text: inner.required_text("text", MAX_TEXT_BYTES).unwrap_or_default(),
        link: link(inner),
    });
    for (i, ending) in endings.iter().enumerate() {
        let detail = if ending.ending_id == END {
            "ending_id must not be end, where every path may end anyway"
        } else if !ending.ending_id.is_empty()
            && endings[..i].iter().any(|earlier| earlier.ending_id == ending.ending_id)
        {
            "ending_id is used twice"
        } else {
            continue;
        };
        reader.fault_at(Code::Invalid, &format!("endings/{i}/ending_id"), detail);
    }
    endings
}

/// Checks that no ending has the id of a question, because `goto` may name either.
pub fn check_ids(reader: &mut Reader<'_>, endings: &[Ending], questions: &[Question]) {
    for (i, ending) in endings.iter().enumerate() {
        if !ending.ending_id.is_empty() && questions.iter().any(|question| question.question_id == ending.ending_id) {
            let detail = "ending_id is the id of a question: goto could mean either";
            reader.fault_at(Code::Invalid, &format!("endings/{i}/ending_id"), detail);
        }
    }
}

/// An `http:` or `https:` URL.
pub fn link(reader: &mut Reader<'_>) -> Option<String> {
    let link = reader.text("link", MAX_LINK_BYTES)?;
    if !address::is_page(&link) {
        reader.fault(Code::Invalid, "link", "must be a URL such as https://shop.example/thanks");
        return None;
    }
    Some(link)
}
