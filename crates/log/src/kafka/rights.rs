//! What the brokers let this process do, as they say themselves: nothing is tried, so
//! nothing changes. `rdkafka` has no safe call for these questions of librdkafka, so this
//! file asks it directly; no other file of ours does such a thing. What librdkafka gives is
//! owned by [`Owned`], and what is read of an answer is copied before the answer goes.

use rdkafka::admin::AdminClient;
use rdkafka::bindings as raw;
use rdkafka::error::{IsError as _, RDKafkaErrorCode};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, c_char, c_int};
use std::time::Duration;

use super::client::Context;
use super::settings::ASK;
use crate::error::Error;

/// How much longer an answer may be on its way here than librdkafka waits for it.
const GRACE: Duration = Duration::from_secs(2);

/// A right that askwhen needs somewhere, by Kafka's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    Describe,
    Read,
    Write,
    Delete,
    DescribeConfigs,
}

impl Right {
    pub fn name(self) -> &'static str {
        match self {
            Right::Describe => "DESCRIBE",
            Right::Read => "READ",
            Right::Write => "WRITE",
            Right::Delete => "DELETE",
            Right::DescribeConfigs => "DESCRIBE_CONFIGS",
        }
    }

    /// By librdkafka's number. Other numbers stand for rights that are of no use here, and
    /// later versions may add some.
    fn of(operation: c_int) -> Option<Right> {
        use raw::rd_kafka_AclOperation_t as Operation;
        const ALL: [(Operation, Right); 5] = [
            (Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE, Right::Describe),
            (Operation::RD_KAFKA_ACL_OPERATION_READ, Right::Read),
            (Operation::RD_KAFKA_ACL_OPERATION_WRITE, Right::Write),
            (Operation::RD_KAFKA_ACL_OPERATION_DELETE, Right::Delete),
            (Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS, Right::DescribeConfigs),
        ];
        ALL.into_iter().find(|(known, _)| *known as c_int == operation).map(|(_, right)| right)
    }
}

/// The rights on each of them, by name: none where not even that may be asked. `None` where
/// the brokers do not say, and of a topic that is not there.
pub type Rights = BTreeMap<String, Option<BTreeSet<Right>>>;

/// Something of librdkafka's that is given back in the end.
struct Owned<T> {
    pointer: *mut T,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Owned<T>, Error> {
        match pointer.is_null() {
            true => Err(Error::Unavailable("the brokers' client has no answer".into())),
            false => Ok(Owned { pointer, destroy }),
        }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: it came from librdkafka as one to be destroyed by this call, once.
        unsafe { (self.destroy)(self.pointer) }
    }
}

type Event = Owned<raw::rd_kafka_event_t>;
type Options = Owned<raw::rd_kafka_AdminOptions_t>;
type Queue = Owned<raw::rd_kafka_queue_t>;

/// The rights of this process on topics.
///
/// # Errors
/// When the brokers cannot be asked.
pub fn of_topics(admin: &AdminClient<Context>, names: &[String]) -> Result<Rights, Error> {
    let (texts, mut pointers) = texts(names)?;
    // SAFETY: the list and its texts live until the call returns, which copies them.
    let list = unsafe { raw::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()) };
    let list = Owned::new(list, raw::rd_kafka_TopicCollection_destroy)?;
    let event = ask(admin, raw::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, |client, options, queue| {
        // SAFETY: all of them live for as long as the call, which copies what it is given.
        unsafe { raw::rd_kafka_DescribeTopics(client, list.pointer, options, queue) }
    })?;
    drop(texts);
    let mut rights = Rights::new();
    // SAFETY: the event lives to the end of this function, and what is read of it with it.
    unsafe {
        let result = raw::rd_kafka_event_DescribeTopics_result(event.pointer);
        if result.is_null() {
            return Err(Error::Unavailable("the brokers do not describe the topics".into()));
        }
        let mut count = 0;
        let all = raw::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        for i in 0..count {
            let one = *all.add(i);
            let name = text(raw::rd_kafka_TopicDescription_name(one));
            let mut granted = 0;
            let operations = raw::rd_kafka_TopicDescription_authorized_operations(one, &raw mut granted);
            let failed = code(raw::rd_kafka_TopicDescription_error(one));
            rights.insert(name, granted_rights(failed, operations, granted));
        }
    }
    Ok(rights)
}

/// The rights of this process on consumer groups, whether or not they have members.
///
/// # Errors
/// When the brokers cannot be asked.
pub fn of_groups(admin: &AdminClient<Context>, names: &[String]) -> Result<Rights, Error> {
    let (texts, mut pointers) = texts(names)?;
    let event =
        ask(admin, raw::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS, |client, options, queue| {
            // SAFETY: all of them live for as long as the call, which copies what it is given.
            unsafe {
                raw::rd_kafka_DescribeConsumerGroups(client, pointers.as_mut_ptr(), pointers.len(), options, queue)
            }
        })?;
    drop(texts);
    let mut rights = Rights::new();
    // SAFETY: the event lives to the end of this function, and what is read of it with it.
    unsafe {
        let result = raw::rd_kafka_event_DescribeConsumerGroups_result(event.pointer);
        if result.is_null() {
            return Err(Error::Unavailable("the brokers do not describe the groups".into()));
        }
        let mut count = 0;
        let all = raw::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count);
        for i in 0..count {
            let one = *all.add(i);
            let name = text(raw::rd_kafka_ConsumerGroupDescription_group_id(one));
            let mut granted = 0;
            let operations = raw::rd_kafka_ConsumerGroupDescription_authorized_operations(one, &raw mut granted);
            let failed = code(raw::rd_kafka_ConsumerGroupDescription_error(one));
            rights.insert(name, granted_rights(failed, operations, granted));
        }
    }
    Ok(rights)
}

/// Asks one question about rights, and waits for its answer.
fn ask(
    admin: &AdminClient<Context>,
    what: raw::rd_kafka_admin_op_t,
    send: impl FnOnce(*mut raw::rd_kafka_t, *const raw::rd_kafka_AdminOptions_t, *mut raw::rd_kafka_queue_t),
) -> Result<Event, Error> {
    let client = admin.inner().native_ptr();
    // SAFETY: the client lives as long as `admin`; queue and options are given back after
    // the answer has come or has been given up.
    let (queue, options): (Queue, Options) = unsafe {
        (
            Owned::new(raw::rd_kafka_queue_new(client), raw::rd_kafka_queue_destroy)?,
            Owned::new(raw::rd_kafka_AdminOptions_new(client, what), raw::rd_kafka_AdminOptions_destroy)?,
        )
    };
    let mut why: [c_char; 256] = [0; 256];
    let wait_ms = i32::try_from(ASK.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: options and the room for an error text are valid, and the room's size is its own.
    let is_refused = unsafe {
        let timed =
            raw::rd_kafka_AdminOptions_set_request_timeout(options.pointer, wait_ms, why.as_mut_ptr(), why.len());
        let asked = raw::rd_kafka_AdminOptions_set_include_authorized_operations(options.pointer, 1);
        let is_refused = timed.is_error() || !asked.is_null();
        if !asked.is_null() {
            raw::rd_kafka_error_destroy(asked);
        }
        is_refused
    };
    if is_refused {
        return Err(Error::Unavailable("the brokers' client does not ask for rights".into()));
    }
    send(client, options.pointer, queue.pointer);
    let wait_ms = i32::try_from((ASK + GRACE).as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the queue is valid; an event that comes is owned from here on.
    let event = unsafe { raw::rd_kafka_queue_poll(queue.pointer, wait_ms) };
    let event = Owned::new(event, raw::rd_kafka_event_destroy)?;
    // SAFETY: the event is valid, and its text is copied.
    let (failed, why) =
        unsafe { (raw::rd_kafka_event_error(event.pointer), text(raw::rd_kafka_event_error_string(event.pointer))) };
    if failed.is_error() {
        return Err(Error::Unavailable(format!("the brokers do not say what this process may do: {why}")));
    }
    Ok(event)
}

/// Texts as librdkafka takes them: the first owns what the second points to.
fn texts(names: &[String]) -> Result<(Vec<CString>, Vec<*const c_char>), Error> {
    let texts: Result<Vec<CString>, _> = names.iter().map(|name| CString::new(name.as_str())).collect();
    let texts = texts.map_err(|_| Error::Refused("a name of a topic holds a NUL".into()))?;
    let pointers = texts.iter().map(|text| text.as_ptr()).collect();
    Ok((texts, pointers))
}

/// Copies a text; nothing for none.
///
/// # Safety
/// `text` is null or a C string that lives as long as the call.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller says.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The code of an error, if it is one.
///
/// # Safety
/// `error` is null or an error that lives as long as the call.
unsafe fn code(error: *const raw::rd_kafka_error_t) -> Option<RDKafkaErrorCode> {
    if error.is_null() {
        return None;
    }
    // SAFETY: as the caller says.
    let code = unsafe { raw::rd_kafka_error_code(error) };
    code.is_error().then(|| code.into())
}

/// # Safety
/// `operations` is null or begins a list of `count` that lives as long as the call.
unsafe fn granted_rights(
    failed: Option<RDKafkaErrorCode>,
    operations: *const raw::rd_kafka_AclOperation_t,
    count: usize,
) -> Option<BTreeSet<Right>> {
    match failed {
        Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed) => {
            return Some(BTreeSet::new());
        }
        Some(_) => return None,
        None if operations.is_null() => return None,
        None => {}
    }
    // SAFETY: as the caller says. They are read as numbers, which may be any.
    let operations = unsafe { std::slice::from_raw_parts(operations.cast::<c_int>(), count) };
    Some(operations.iter().filter_map(|operation| Right::of(*operation)).collect())
}
