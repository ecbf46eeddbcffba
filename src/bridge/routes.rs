//! The table of routes: names, paths, methods and their properties.

use super::auth::Kind;
use super::body::BodyNeed;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    Events,
    BlitzllamaEvent,
    RewardEvent,
    Triggers,
    Trigger,
    UserTrigger,
    Displayed,
    Dismissed,
    Answers,
    Offer,
    LinkSurvey,
    LinkResponses,
    Explain,
    Timeline,
    Aliases,
    User,
    Surveys,
    Survey,
    Endpoints,
    Endpoint,
    Enable,
    RotateSecret,
    TestEndpoint,
    Recover,
    Backfill,
    Settings,
    SurveyStats,
    SurveyResults,
    ResponsesCsv,
    ResponsesNdjson,
    DeliveryCauses,
    Jobs,
    Job,
    Changes,
    SurveyVersions,
    SurveyVersion,
    Keys,
    Key,
    Deliveries,
    Delivery,
    Resend,
    Decisions,
    Responses,
    Configuration,
    Snapshots,
    Skip,
    TestClock,
    Livez,
    Readyz,
    Metrics,
    OpenApi,
    Sdk,
    SurveyLinks,
    SurveyPage,
    Embed,
    Root,
    Console,
    ConsolePage,
    ConsoleSession,
}

/// A row of the table: `{name}` is one part of the path, `{name…}` all parts up to what
/// follows.
pub struct RouteSpec {
    pub name: Name,
    pub template: &'static str,
    pub methods: &'static [(&'static str, Kind, &'static str)],
    /// The value of `Allow`.
    pub allow: &'static str,
}

pub const TABLE: &[RouteSpec] = &[
    RouteSpec {
        name: Name::Events,
        template: "/v1/events",
        methods: &[("POST", Kind::Server, "Take one event, or up to 1000")],
        allow: "POST",
    },
    RouteSpec {
        name: Name::BlitzllamaEvent,
        template: "/api/v1/connections/backend/event",
        methods: &[("POST", Kind::Server, "Take an event as Blitzllama's backend trigger does")],
        allow: "POST",
    },
    RouteSpec {
        name: Name::RewardEvent,
        template: "/v1/triggers/{trigger_id}/users/{user_id…}/events",
        methods: &[("POST", Kind::Server, "Take an event as Reward's custom trigger does")],
        allow: "POST",
    },
    RouteSpec {
        name: Name::Triggers,
        template: "/v1/triggers",
        methods: &[
            ("GET", Kind::Server, "List the names of events and frontend triggers"),
            ("POST", Kind::Admin, "Declare a trigger"),
        ],
        allow: "GET, HEAD, POST",
    },
    RouteSpec {
        name: Name::Trigger,
        template: "/v1/triggers/{trigger_id}",
        methods: &[("DELETE", Kind::Admin, "Take a trigger off the list")],
        allow: "DELETE",
    },
    RouteSpec {
        name: Name::Displayed,
        template: "/v1/users/{user_id…}/offers/{offer_id}/displayed",
        methods: &[("POST", Kind::Client, "Tell that an offer was seen")],
        allow: "POST, OPTIONS",
    },
    RouteSpec {
        name: Name::Dismissed,
        template: "/v1/users/{user_id…}/offers/{offer_id}/dismissed",
        methods: &[("POST", Kind::Client, "Tell that an offer was closed")],
        allow: "POST, OPTIONS",
    },
    RouteSpec {
        name: Name::Answers,
        template: "/v1/users/{user_id…}/offers/{offer_id}/answers",
        methods: &[("POST", Kind::Client, "Answer an offer")],
        allow: "POST, OPTIONS",
    },
    RouteSpec {
        name: Name::Offer,
        template: "/v1/users/{user_id…}/offers/{offer_id}",
        methods: &[("GET", Kind::Client, "Show an offer and the answers so far")],
        allow: "GET, HEAD, OPTIONS",
    },
    RouteSpec {
        name: Name::LinkResponses,
        template: "/v1/users/{user_id…}/surveys/{survey_id}/responses",
        methods: &[("POST", Kind::Client, "Answer a link survey")],
        allow: "POST, OPTIONS",
    },
    RouteSpec {
        name: Name::LinkSurvey,
        template: "/v1/users/{user_id…}/surveys/{survey_id}",
        methods: &[("GET", Kind::Client, "Show a link survey")],
        allow: "GET, HEAD, OPTIONS",
    },
    RouteSpec {
        name: Name::UserTrigger,
        template: "/v1/users/{user_id…}/triggers/{trigger}",
        methods: &[("POST", Kind::Client, "Ask which survey shows here and now")],
        allow: "POST, OPTIONS",
    },
    RouteSpec {
        name: Name::Explain,
        template: "/v1/users/{user_id…}/explain",
        methods: &[(
            "GET",
            Kind::Viewer,
            "Explain what was known of a user at a moment, and why they are asked or not",
        )],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Timeline,
        template: "/v1/users/{user_id…}/timeline",
        methods: &[("GET", Kind::Viewer, "List what happened to a user, newest first")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Aliases,
        template: "/v1/users/{user_id…}/aliases",
        methods: &[("POST", Kind::Client, "Make an anonymous id another name of a user")],
        allow: "POST, OPTIONS",
    },
    RouteSpec {
        name: Name::User,
        template: "/v1/users/{user_id…}",
        methods: &[
            ("GET", Kind::Server, "Show a user: attributes, windows, offers, and where each survey stands"),
            ("PUT", Kind::Server, "Merge a user's attributes"),
            ("DELETE", Kind::Server, "Erase a user"),
        ],
        allow: "GET, HEAD, PUT, DELETE",
    },
    RouteSpec {
        name: Name::Surveys,
        template: "/v1/surveys",
        methods: &[("GET", Kind::Viewer, "List surveys")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Survey,
        template: "/v1/surveys/{survey_id}",
        methods: &[
            ("GET", Kind::Viewer, "Show a survey"),
            ("PUT", Kind::Admin, "Define a survey"),
            ("DELETE", Kind::Admin, "Archive a survey"),
        ],
        allow: "GET, HEAD, PUT, DELETE",
    },
    RouteSpec {
        name: Name::SurveyStats,
        template: "/v1/surveys/{survey_id}/stats",
        methods: &[(
            "GET",
            Kind::Viewer,
            "Show how a survey fares: considered, offered, displayed, answered, and why not",
        )],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::SurveyLinks,
        template: "/v1/surveys/{survey_id}/links",
        methods: &[("POST", Kind::Server, "Make a signed link to a survey's page for one user")],
        allow: "POST",
    },
    RouteSpec {
        name: Name::SurveyResults,
        template: "/v1/surveys/{survey_id}/results",
        methods: &[("GET", Kind::Viewer, "Show what a survey was answered, in numbers")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::ResponsesCsv,
        template: "/v1/surveys/{survey_id}/responses.csv",
        methods: &[("GET", Kind::Viewer, "Write every response of a survey as a table, oldest first")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::ResponsesNdjson,
        template: "/v1/surveys/{survey_id}/responses.ndjson",
        methods: &[("GET", Kind::Viewer, "Write every response of a survey as a line of JSON, oldest first")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::SurveyVersions,
        template: "/v1/surveys/{survey_id}/versions",
        methods: &[("GET", Kind::Viewer, "List the versions of a survey, with when and by whom each was made")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::SurveyVersion,
        template: "/v1/surveys/{survey_id}/versions/{version}",
        methods: &[("GET", Kind::Viewer, "Show one version of a survey")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Keys,
        template: "/v1/keys",
        methods: &[
            ("GET", Kind::Viewer, "List the API keys of the project, without their values"),
            ("POST", Kind::Admin, "Make an API key, which is shown once"),
        ],
        allow: "GET, HEAD, POST",
    },
    RouteSpec {
        name: Name::Key,
        template: "/v1/keys/{key_id}",
        methods: &[("DELETE", Kind::Admin, "Revoke an API key that was made at run time")],
        allow: "DELETE",
    },
    RouteSpec {
        name: Name::Endpoints,
        template: "/v1/endpoints",
        methods: &[("GET", Kind::Viewer, "List endpoints")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Endpoint,
        template: "/v1/endpoints/{endpoint_id}",
        methods: &[
            ("GET", Kind::Viewer, "Show an endpoint"),
            ("PUT", Kind::Admin, "Define an endpoint"),
            ("DELETE", Kind::Admin, "Remove an endpoint"),
        ],
        allow: "GET, HEAD, PUT, DELETE",
    },
    RouteSpec {
        name: Name::Enable,
        template: "/v1/endpoints/{endpoint_id}/enable",
        methods: &[("POST", Kind::Admin, "Enable an endpoint")],
        allow: "POST",
    },
    RouteSpec {
        name: Name::RotateSecret,
        template: "/v1/endpoints/{endpoint_id}/rotate-secret",
        methods: &[("POST", Kind::Admin, "Give an endpoint a new secret; the old one signs on for a while")],
        allow: "POST",
    },
    RouteSpec {
        name: Name::TestEndpoint,
        template: "/v1/endpoints/{endpoint_id}/test",
        methods: &[("POST", Kind::Admin, "Send an endpoint one test message, and wait for its answer")],
        allow: "POST",
    },
    RouteSpec {
        name: Name::Recover,
        template: "/v1/endpoints/{endpoint_id}/recover",
        methods: &[("POST", Kind::Admin, "Send again what an endpoint has missed")],
        allow: "POST",
    },
    RouteSpec {
        name: Name::Backfill,
        template: "/v1/endpoints/{endpoint_id}/backfill",
        methods: &[("POST", Kind::Admin, "Send what a new endpoint would have been told")],
        allow: "POST",
    },
    RouteSpec {
        name: Name::Settings,
        template: "/v1/settings",
        methods: &[
            ("GET", Kind::Viewer, "Show the project's settings"),
            ("PUT", Kind::Admin, "Replace the project's settings"),
        ],
        allow: "GET, HEAD, PUT",
    },
    RouteSpec {
        name: Name::Deliveries,
        template: "/v1/deliveries",
        methods: &[("GET", Kind::Viewer, "List deliveries")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::DeliveryCauses,
        template: "/v1/deliveries/causes",
        methods: &[("GET", Kind::Viewer, "List what keeps deliveries from their receivers")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Jobs,
        template: "/v1/jobs",
        methods: &[
            ("GET", Kind::Viewer, "List jobs"),
            ("POST", Kind::Admin, "Begin a job: resend, recover, backfill or backtest; or count what it would do"),
        ],
        allow: "GET, HEAD, POST",
    },
    RouteSpec {
        name: Name::Job,
        template: "/v1/jobs/{job_id}",
        methods: &[
            ("GET", Kind::Viewer, "Show a job: how far it is, and when it will be done"),
            ("DELETE", Kind::Admin, "Cancel a job"),
        ],
        allow: "GET, HEAD, DELETE",
    },
    RouteSpec {
        name: Name::Changes,
        template: "/v1/changes",
        methods: &[("GET", Kind::Viewer, "Hear which lists have changed, as server-sent events")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Delivery,
        template: "/v1/deliveries/{delivery_id}",
        methods: &[("GET", Kind::Viewer, "Show a delivery and its attempts")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Resend,
        template: "/v1/deliveries/{delivery_id}/resend",
        methods: &[("POST", Kind::Admin, "Send a message again under its webhook-id")],
        allow: "POST",
    },
    RouteSpec {
        name: Name::Decisions,
        template: "/v1/decisions",
        methods: &[("GET", Kind::Viewer, "List decisions, each with the gate of every survey considered")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Responses,
        template: "/v1/responses",
        methods: &[("GET", Kind::Server, "List responses with their answers")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Configuration,
        template: "/v1/config",
        methods: &[("GET", Kind::Viewer, "Show the configuration of the process, without its secrets")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Snapshots,
        template: "/v1/snapshots",
        methods: &[("POST", Kind::Admin, "Take a snapshot of every store of this process")],
        allow: "POST",
    },
    RouteSpec {
        name: Name::Skip,
        template: "/v1/journal/{partition}/skip",
        methods: &[("POST", Kind::Admin, "Take the record that a partition has stopped at out of the way")],
        allow: "POST",
    },
    RouteSpec {
        name: Name::TestClock,
        template: "/v1/test/clock",
        methods: &[("POST", Kind::Admin, "Move the test clock")],
        allow: "POST",
    },
    RouteSpec {
        name: Name::Livez,
        template: "/livez",
        methods: &[("GET", Kind::None, "Whether the process lives")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Readyz,
        template: "/readyz",
        methods: &[("GET", Kind::None, "Whether it can serve")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Metrics,
        template: "/metrics",
        methods: &[("GET", Kind::None, "Metrics for Prometheus")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::OpenApi,
        template: "/openapi.json",
        methods: &[("GET", Kind::None, "This description")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Sdk,
        template: "/sdk/{file}",
        methods: &[("GET", Kind::None, "The widget that shows surveys on a page")],
        allow: "GET",
    },
    RouteSpec {
        name: Name::SurveyPage,
        template: "/s/{survey_id}",
        methods: &[("GET", Kind::None, "A survey's page behind a link")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Embed,
        template: "/embed",
        methods: &[("GET", Kind::None, "The widget on an empty page, for WebViews and frames")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::Root,
        template: "/",
        methods: &[("GET", Kind::None, "Go to the console")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::ConsoleSession,
        template: "/console/session",
        methods: &[
            ("GET", Kind::None, "Tell whose session this is"),
            ("POST", Kind::None, "Sign in to the console with a key"),
            ("DELETE", Kind::None, "Sign out of the console"),
        ],
        allow: "GET, HEAD, POST, DELETE",
    },
    RouteSpec {
        name: Name::Console,
        template: "/console",
        methods: &[("GET", Kind::None, "The console")],
        allow: "GET, HEAD",
    },
    RouteSpec {
        name: Name::ConsolePage,
        template: "/console/{page…}",
        methods: &[("GET", Kind::None, "A page of the console")],
        allow: "GET, HEAD",
    },
];

impl Name {
    /// The path template, which is also the label of metrics.
    pub fn template(self) -> &'static str {
        TABLE.iter().find(|row| row.name == self).map_or("", |row| row.template)
    }

    /// Whether apps in browsers may call it.
    pub fn is_client(self) -> bool {
        TABLE.iter().any(|row| row.name == self && row.methods.iter().any(|(_, kind, _)| *kind == Kind::Client))
    }

    /// Whether a request with a body-carrying method needs a body.
    pub(super) fn body(self) -> BodyNeed {
        use Name::{
            Dismissed, Displayed, Enable, Resend, RewardEvent, RotateSecret, Snapshots, TestEndpoint, UserTrigger,
        };
        match self {
            RewardEvent | Displayed | Dismissed | Snapshots | UserTrigger | Enable | RotateSecret | TestEndpoint
            | Resend => BodyNeed::JsonOrNone,
            _ => BodyNeed::Json,
        }
    }

    /// `Cache-Control`: answers about users are never stored, definitions are revalidated.
    pub(super) fn cache_control(self) -> Option<&'static str> {
        use Name::{Endpoint, Endpoints, OpenApi, Settings, Survey, Surveys, Triggers};
        match self {
            OpenApi => None,
            Survey | Surveys | Endpoint | Endpoints | Settings | Triggers => Some("no-cache"),
            _ => Some("no-store"),
        }
    }

    /// Whether processes without the role `bridge` answer it, too.
    pub fn needs_no_bridge(self) -> bool {
        use Name::{
            Configuration, Decisions, Deliveries, Delivery, DeliveryCauses, Explain, Responses, ResponsesCsv,
            ResponsesNdjson, Skip, Snapshots, SurveyResults, SurveyStats, Timeline,
        };
        matches!(
            self,
            Deliveries
                | Delivery
                | DeliveryCauses
                | Decisions
                | Responses
                | SurveyStats
                | SurveyResults
                | ResponsesCsv
                | ResponsesNdjson
                | Configuration
                | Snapshots
                | Skip
                | Explain
                | Timeline
        )
    }

    /// Whether it is only on the admin listener, when there is one.
    pub fn is_operators(self) -> bool {
        let admin = |row: &RouteSpec| row.methods.iter().all(|(_, kind, _)| *kind >= Kind::Viewer);
        matches!(
            self,
            Name::Configuration | Name::Metrics | Name::Root | Name::Console | Name::ConsolePage | Name::ConsoleSession
        ) || TABLE.iter().any(|row| row.name == self && admin(row))
    }
}
