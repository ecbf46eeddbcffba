/** Made by script/web build from src/bridge/openapi/schemas.json, the schemas of /openapi.json. */
export interface components {
    schemas: {
        /** @description What askwhen explain prints as JSON. */
        Explanation: {
            user_id: string;
            project: string;
            at: components["schemas"]["Time"];
            partition: number;
            /** @description Of the first record of the journal that was not known. */
            offset: number;
            records?: number;
            snapshot?: string | null;
            user: components["schemas"]["User"];
            /** @description On the trigger that was asked about. */
            decision?: components["schemas"]["Decision"] | null;
            needs_grant?: string[];
            decisions?: components["schemas"]["Decision"][];
        } & {
            [key: string]: unknown;
        };
        /** @description What happened; the other members depend on kind. */
        TimelineItem: {
            at: components["schemas"]["Time"];
            /** @enum {string} */
            kind: "event" | "decision" | "displayed" | "dismissed" | "answers" | "attributes" | "alias" | "delivery" | "erased";
        } & {
            [key: string]: unknown;
        };
        DistributionRow: {
            /** @description A number, an option, or what stands for the other one. */
            value: string | number;
            text: string;
            count: number;
        } & {
            [key: string]: unknown;
        };
        NpsResult: {
            score: number | null;
            promoters: number;
            passives: number;
            detractors: number;
            /** @description Half of the 95 % interval, in points. */
            margin: number | null;
        } & {
            [key: string]: unknown;
        };
        NewestText: {
            text: string;
            response_id: string;
            user_id?: string | null;
            answered_at: components["schemas"]["Time"];
        } & {
            [key: string]: unknown;
        };
        QuestionResults: {
            question_id: string;
            type: string;
            text: string;
            answered: number;
            skipped: number;
            distribution: components["schemas"]["DistributionRow"][];
            mean?: number;
            nps?: components["schemas"]["NpsResult"];
            texts?: components["schemas"]["NewestText"][];
        } & {
            [key: string]: unknown;
        };
        ResultsPoint: {
            group: string;
            responses: number;
            completed: number;
            completion_rate: number;
            median_duration_ms: number | null;
            questions: components["schemas"]["QuestionResults"][];
        } & {
            [key: string]: unknown;
        };
        SurveyResults: {
            survey_id: string;
            responses: number;
            completed: number;
            completion_rate: number;
            median_duration_ms: number | null;
            questions: components["schemas"]["QuestionResults"][];
            series: components["schemas"]["ResultsPoint"][];
            anonymous?: boolean;
            /** @description Of an anonymous survey: with fewer responses there are no questions. */
            hidden_below?: number;
        } & {
            [key: string]: unknown;
        };
        Version: {
            version: number;
            changed_at: string | null;
            actor: string | null;
            definition: {
                [key: string]: unknown;
            } | null;
        };
        Versions: {
            versions: components["schemas"]["Version"][];
        };
        KeyRequest: {
            name: string;
            /** @enum {string} */
            kind: "client" | "server" | "viewer" | "admin";
        };
        MadeKey: {
            key_id: string;
            /** @description Shown once. */
            key: string;
            name: string;
            kind: string;
        } & {
            [key: string]: unknown;
        };
        Key: {
            key_id: string;
            name: string | null;
            kind: string;
            prefix: string | null;
            created_at?: string | null;
            last_used_at?: string | null;
            /** @enum {string} */
            source: "file" | "runtime";
        };
        Keys: {
            keys: components["schemas"]["Key"][];
        };
        Cause: {
            /** @description A filter of the list of deliveries, and of jobs. */
            cause: string;
            endpoint_id: string;
            outcome: string | null;
            http_status: number | null;
            error: string | null;
            count: number;
            /** @description How many of them were sent again since. */
            resent: number;
            first_at: components["schemas"]["Time"];
            last_at: components["schemas"]["Time"];
            /** @description The id of the newest of them. */
            example: string;
        } & {
            [key: string]: unknown;
        };
        Causes: {
            causes: components["schemas"]["Cause"][];
        };
        /** @description What the list of deliveries takes. */
        DeliveryFilter: {
            endpoint_id?: components["schemas"]["Id"];
            /** @enum {string} */
            status?: "pending" | "waiting" | "delivered" | "dead" | "cancelled" | "resent";
            survey_id?: components["schemas"]["Id"];
            user_id?: components["schemas"]["Id"];
            since?: components["schemas"]["Time"];
            until?: components["schemas"]["Time"];
            outcome?: string;
            http_status?: number | string;
            cause?: string;
            type?: string;
        };
        /** @description resend takes filter; recover and backfill endpoint_id, since and until; backtest surveys, from, to, displayed, answered (a share) and alone. */
        JobRequest: {
            /** @enum {string} */
            kind: "resend" | "recover" | "backfill" | "backtest";
            dry_run?: boolean | null;
            /** @description Of messages, such as 10/s. */
            rate?: string | null;
            filter?: components["schemas"]["DeliveryFilter"] | null;
            endpoint_id?: components["schemas"]["Id"] | null;
            since?: components["schemas"]["Time"] | null;
            until?: components["schemas"]["Time"] | null;
            surveys?: components["schemas"]["SurveyDefinition"][] | null;
            survey?: components["schemas"]["SurveyDefinition"] | null;
            from?: components["schemas"]["Time"] | null;
            to?: components["schemas"]["Time"] | null;
            displayed?: boolean | null;
            answered?: number | null;
            alone?: boolean | null;
        };
        BegunJob: {
            job_id: string;
        } & {
            [key: string]: unknown;
        };
        Job: {
            job_id: string;
            /** @enum {string} */
            kind: "resend" | "recover" | "backfill" | "backtest";
            /** @enum {string} */
            state: "queued" | "running" | "done" | "cancelled" | "failed";
            done: number;
            total: number;
            created_at: components["schemas"]["Time"];
            started_at: string | null;
            eta: string | null;
            actor?: string;
            parameters?: {
                [key: string]: unknown;
            };
            result?: unknown;
            error?: string;
        } & {
            [key: string]: unknown;
        };
        SignIn: {
            key?: string;
            once?: string;
        };
        Session: {
            project: string;
            kind: string;
            name?: string | null;
            expires_at?: components["schemas"]["Time"];
        } & {
            [key: string]: unknown;
        };
        SignedOut: {
            status: string;
        };
        LinkRequest: {
            user_id: components["schemas"]["Id"];
            expires_in?: components["schemas"]["Duration"] | null;
            single_use?: boolean | null;
        };
        Link: {
            url: string;
        } & {
            [key: string]: unknown;
        };
        /** @description 1 to 256 bytes of UTF-8 without control characters. */
        Id: string;
        /**
         * Format: date-time
         * @description RFC 3339 with a zone.
         * @example 2026-03-01T08:00:00.000Z
         */
        Time: string;
        /** @description RFC 3339 with a zone, or seconds or milliseconds since the epoch. */
        GivenTime: string | number;
        /**
         * @description Units descending: 90s, 15m, 1h30m, 7d.
         * @example 2h
         */
        Duration: string;
        Properties: {
            [key: string]: unknown;
        };
        Context: {
            platform?: string | null;
            locale?: string | null;
            app_version?: string | null;
            session_id?: string | null;
            timezone?: string | null;
        };
        Event: {
            user_id: components["schemas"]["Id"];
            event_name: components["schemas"]["Id"];
            properties?: components["schemas"]["Properties"] | null;
            event_id?: components["schemas"]["Id"] | null;
            occurred_at?: components["schemas"]["GivenTime"] | null;
            sent_at?: components["schemas"]["GivenTime"] | null;
            context?: components["schemas"]["Context"] | null;
        };
        EventBatch: {
            events: components["schemas"]["Event"][];
        };
        EventOrBatch: components["schemas"]["Event"] | components["schemas"]["EventBatch"];
        EventAccepted: {
            event_id: string;
            /** @enum {string} */
            status: "accepted";
        };
        BatchResult: {
            index: number;
            /** @description The status that the item would have had alone. */
            status: number;
            event_id?: string;
            problem?: components["schemas"]["Problem"];
        };
        BatchResults: {
            results: components["schemas"]["BatchResult"][];
        };
        EventOrBatchAccepted: components["schemas"]["EventAccepted"] | components["schemas"]["BatchResults"];
        BackendEvent: {
            user_id: components["schemas"]["Id"];
            event_name: components["schemas"]["Id"];
            properties?: components["schemas"]["Properties"] | null;
        };
        BackendEventAccepted: {
            /** @enum {string} */
            message: "success";
            event_id: string;
        };
        CustomTriggerAccepted: {
            success: boolean;
        };
        Trigger: {
            trigger_id: string;
            name: string;
            /** @enum {string} */
            kind: "backend" | "frontend" | "custom";
            /** @description Null of one that was created and has not come yet. */
            first_seen_at: string | null;
        };
        TriggerDeclaration: {
            name: string;
            trigger_id?: components["schemas"]["Id"] | null;
            /** @enum {string|null} */
            kind?: "backend" | "frontend" | "custom" | null;
        };
        /** @description Durable, and not answered within reply_timeout: the same request again with this event_id gives the result. */
        Pending: {
            /** @enum {string} */
            status: "pending";
            event_id?: string;
            missing_partitions?: number[];
            secret?: string;
        };
        TriggerRequest: {
            event_id?: components["schemas"]["Id"] | null;
            properties?: components["schemas"]["Properties"] | null;
            context?: components["schemas"]["Context"] | null;
            occurred_at?: components["schemas"]["GivenTime"] | null;
            sent_at?: components["schemas"]["GivenTime"] | null;
            /** @description The client key, of a body of type text/plain. */
            key?: string | null;
        };
        Activation: {
            event_id: string | null;
            event_name: string;
            occurred_at: components["schemas"]["Time"];
            properties: {
                [key: string]: unknown;
            };
        };
        Option: string | {
            value: string;
            text?: string;
        };
        Question: {
            question_id: components["schemas"]["Id"];
            /** @enum {string} */
            type: "text" | "nps" | "single_choice" | "multi_choice" | "rating_number" | "rating_star" | "rating_emoji" | "info";
            text: string;
            required?: boolean | null;
            options?: components["schemas"]["Option"][];
            /** @enum {integer|null} */
            scale?: 3 | 5 | 7 | 10 | null;
        } & {
            [key: string]: unknown;
        };
        Ending: {
            ending_id: components["schemas"]["Id"];
            text: string;
            link?: string | null;
        };
        OfferedSurvey: {
            survey_id: string;
            version: number;
            name: string;
            offer_id: string;
            expires_at: components["schemas"]["Time"];
            ui?: {
                [key: string]: unknown;
            };
            activation?: components["schemas"]["Activation"] | null;
            questions: components["schemas"]["Question"][];
            endings?: components["schemas"]["Ending"][];
            anonymous?: boolean;
            locale?: string | null;
            /** @enum {string} */
            dir?: "ltr" | "rtl";
        } & {
            [key: string]: unknown;
        };
        Evaluation: {
            survey_id: string;
            pass: boolean;
            gate?: string | null;
            /** @description What the gate saw, as a text or a number. */
            actual?: unknown;
            until?: string | null;
        } & {
            [key: string]: unknown;
        };
        Decision: {
            decision_id: string;
            event_id: string;
            user_id: string;
            trigger: string;
            decided_at: components["schemas"]["Time"];
            /** @description offered, the gate of the first survey considered, no_survey, not_offered or stale. */
            reason: string;
            survey: components["schemas"]["OfferedSurvey"] | null;
            /** @description Every survey considered, by priority; not for a key of kind client. */
            evaluations?: components["schemas"]["Evaluation"][];
        } & {
            [key: string]: unknown;
        };
        AliasRequest: {
            /** @description The other name; with a client key it begins with anon-. */
            alias: string;
            /** @description The client key, of a body of type text/plain. */
            key?: string | null;
        };
        OfferReport: {
            occurred_at?: components["schemas"]["GivenTime"] | null;
            sent_at?: components["schemas"]["GivenTime"] | null;
            /** @description The client key, of a body of type text/plain. */
            key?: string | null;
            /** @description Of a dismissal: when to ask again, at most the survey's snooze. */
            ask_again_in?: components["schemas"]["Duration"] | null;
        };
        Reported: {
            /** @enum {string} */
            status: "accepted" | "duplicate";
        };
        Answer: {
            question_id: components["schemas"]["Id"];
            /** @description A text, a whole number, a choice, or several: as the question's type has it. */
            value: unknown;
            answered_at?: components["schemas"]["GivenTime"] | null;
            duration_ms?: number | null;
        };
        /** @description What an answer may be. Clients that are made from a choice of types send several choices as an empty object, so answers name this by what they are not. */
        AnswerValue: string | number | unknown[] | {
            other: string;
        } | null;
        Answers: {
            answers: components["schemas"]["Answer"][];
            completed?: boolean | null;
            sent_at?: components["schemas"]["GivenTime"] | null;
            /** @description The client key, of a body of type text/plain. */
            key?: string | null;
        };
        LinkAnswers: {
            answers: components["schemas"]["Answer"][];
            completed?: boolean | null;
            response_id?: components["schemas"]["Id"] | null;
            context?: components["schemas"]["Context"] | null;
            sent_at?: components["schemas"]["GivenTime"] | null;
            /** @description The client key, of a body of type text/plain. */
            key?: string | null;
            /** @description Of a signed link. */
            token?: string | null;
        };
        Answered: {
            /** @enum {string} */
            status: "accepted" | "duplicate";
            response_id: string;
        };
        StoredAnswer: {
            question_id: string;
            order?: number;
            type?: string;
            text?: string;
            /** @description A text, a whole number, a choice, or several: as the question's type has it. */
            value: unknown;
            answered_at?: components["schemas"]["Time"];
            duration_ms?: number | null;
        } & {
            [key: string]: unknown;
        };
        Offer: {
            offer_id: string;
            survey: components["schemas"]["OfferedSurvey"];
            displayed_at?: string | null;
            dismissed_at?: string | null;
            completed: boolean;
            answers: components["schemas"]["StoredAnswer"][];
        } & {
            [key: string]: unknown;
        };
        LinkSurvey: {
            survey_id: string;
            version: number;
            name: string;
            ui?: {
                [key: string]: unknown;
            };
            questions: components["schemas"]["Question"][];
            endings?: components["schemas"]["Ending"][];
        } & {
            [key: string]: unknown;
        };
        AttributesUpdate: {
            /** @description Merged; null removes one. */
            attributes: {
                [key: string]: unknown;
            } | null;
        };
        UserAccepted: {
            user_id: string;
            /** @enum {string} */
            status: "accepted";
        };
        Window: {
            survey_id: string;
            opens_at: components["schemas"]["Time"];
            expires_at: components["schemas"]["Time"];
            activation: components["schemas"]["Activation"] | null;
        } & {
            [key: string]: unknown;
        };
        SurveyStanding: {
            survey_id: string;
            eligible: boolean;
            gate?: string | null;
            until?: string | null;
        } & {
            [key: string]: unknown;
        };
        User: {
            user_id: string;
            known: boolean;
            aliases?: {
                alias: string;
                since: components["schemas"]["Time"];
            }[];
            attributes: {
                [key: string]: unknown;
            };
            windows: components["schemas"]["Window"][];
            offers: {
                [key: string]: unknown;
            }[];
            counters: {
                [key: string]: unknown;
            };
            /** @description The user's arm of each experiment. */
            arms?: {
                [key: string]: string;
            };
            surveys: components["schemas"]["SurveyStanding"][];
        } & {
            [key: string]: unknown;
        };
        /** @enum {string} */
        Operator: "eq" | "neq" | "gt" | "gte" | "lt" | "lte" | "between" | "in" | "not_in" | "contains" | "not_contains" | "starts_with" | "ends_with" | "exists" | "not_exists" | "before" | "after" | "within" | "eq_ci" | "contains_ci" | "ends_with_ci" | "in_next";
        /** @description A property or a dotted path, and what it must be. */
        PropertyCondition: {
            property: components["schemas"]["Id"];
            op: components["schemas"]["Operator"];
            /** @description As the operator needs it; none of exists and not_exists. */
            value?: unknown;
        };
        AnswerCondition: {
            question_id: components["schemas"]["Id"];
            op: components["schemas"]["Operator"];
            value?: unknown;
        };
        ShowOn: {
            trigger: components["schemas"]["Id"];
            where?: components["schemas"]["PropertyCondition"][] | null;
        };
        EventPattern: {
            event: components["schemas"]["Id"];
            where?: components["schemas"]["PropertyCondition"][] | null;
        };
        EventCount: {
            at_least: number;
            within: components["schemas"]["Duration"];
            /** @enum {string|null} */
            distinct?: "day" | "session" | null;
        };
        /** @description Exactly one of event, any, all, sequence, absence. */
        ActivateDefinition: {
            event?: components["schemas"]["Id"] | null;
            where?: components["schemas"]["PropertyCondition"][] | null;
            count?: components["schemas"]["EventCount"] | null;
            any?: components["schemas"]["EventPattern"][] | null;
            all?: components["schemas"]["EventPattern"][] | null;
            within?: components["schemas"]["Duration"] | null;
            sequence?: {
                steps: components["schemas"]["EventPattern"][];
                within: components["schemas"]["Duration"];
            } | null;
            absence?: {
                after: components["schemas"]["EventPattern"];
                without: components["schemas"]["EventPattern"];
                for: components["schemas"]["Duration"];
            } | null;
            match?: components["schemas"]["Id"] | null;
        };
        TimeSpan: {
            start_at: components["schemas"]["Time"];
            end_at: components["schemas"]["Time"];
        };
        Schedule: {
            start_at?: components["schemas"]["Time"] | null;
            end_at?: components["schemas"]["Time"] | null;
            /** @description Of IANA, or user. */
            timezone?: string | null;
            days?: ("mon" | "tue" | "wed" | "thu" | "fri" | "sat" | "sun")[] | null;
            hours?: string[] | null;
            month_days?: (number | "last")[] | null;
            windows?: components["schemas"]["TimeSpan"][] | null;
            except?: components["schemas"]["TimeSpan"][] | null;
        };
        /** @description One of all, any, not, attribute, survey, tag, event; empty: everybody. */
        TargetingRule: {
            all?: components["schemas"]["TargetingRule"][] | null;
            any?: components["schemas"]["TargetingRule"][] | null;
            not?: components["schemas"]["TargetingRule"] | null;
            attribute?: components["schemas"]["Id"] | null;
            op?: components["schemas"]["Operator"] | null;
            value?: unknown;
            survey?: components["schemas"]["Id"] | null;
            tag?: components["schemas"]["Id"] | null;
            /** @enum {string|null} */
            did?: "offered" | "displayed" | "answered" | "completed" | "dismissed" | null;
            answer?: components["schemas"]["AnswerCondition"] | null;
            event?: components["schemas"]["Id"] | null;
            where?: components["schemas"]["PropertyCondition"][] | null;
            within?: components["schemas"]["Duration"] | null;
            at_least?: number | null;
            at_most?: number | null;
            /** @enum {string|null} */
            distinct?: "day" | "session" | null;
        };
        /** @description What draws together: user, activation, or those who share an attribute. */
        Unit: ("user" | "activation") | {
            attribute: components["schemas"]["Id"];
        };
        Frequency: {
            /** @enum {string|null} */
            repeat?: "once" | "until_responded" | "until_completed" | "every_activation" | null;
            max_displays?: number | null;
            /** @description 90d, day, week, month, quarter, year, or {"wave": 2}. */
            per?: string | Record<string, never> | null;
            cooldown?: components["schemas"]["Duration"] | null;
            /** @description A duration, or never. */
            after_dismissal?: string | null;
            /** @description respect, ignore, exempt, or a duration of its own. */
            global_cooldown?: string | null;
            /** @enum {string|null} */
            session_cap?: "respect" | "ignore" | null;
            snooze?: components["schemas"]["Duration"] | null;
        };
        Sampling: {
            percent?: number | null;
            from?: number | null;
            salt?: string | null;
            by?: components["schemas"]["Unit"] | null;
        };
        Holdout: {
            percent?: number | null;
            group?: string | null;
            by?: components["schemas"]["Unit"] | null;
        };
        /** @description A limit across users. */
        Cap: {
            /** @enum {string} */
            count: "displayed" | "completed";
            max: number;
            within?: components["schemas"]["Duration"] | null;
            per?: {
                attribute: components["schemas"]["Id"];
            } | null;
            /** @enum {string|null} */
            missing?: "pass" | "shut" | null;
        };
        Limits: {
            max_completed?: number | null;
            caps?: components["schemas"]["Cap"][] | null;
        };
        Experiment: {
            name: components["schemas"]["Id"];
            arm: components["schemas"]["Id"];
        };
        ScaleLabels: {
            low?: string | null;
            high?: string | null;
        };
        OtherChoice: {
            text?: string | null;
        };
        NextRule: {
            /** @description On the answer; left out: always. */
            when?: {
                op: components["schemas"]["Operator"];
                value?: unknown;
            } | null;
            goto: components["schemas"]["Id"];
        };
        QuestionDefinition: {
            question_id: components["schemas"]["Id"];
            /** @enum {string} */
            type: "text" | "nps" | "single_choice" | "multi_choice" | "rating_number" | "rating_star" | "rating_emoji" | "info";
            text: string;
            required?: boolean | null;
            options?: components["schemas"]["Option"][] | null;
            other?: components["schemas"]["OtherChoice"] | null;
            shuffle?: boolean | null;
            /** @enum {integer|null} */
            scale?: 3 | 5 | 7 | 10 | null;
            labels?: components["schemas"]["ScaleLabels"] | null;
            next?: components["schemas"]["NextRule"][] | null;
        };
        EndingDefinition: {
            ending_id: components["schemas"]["Id"];
            text: string;
            link?: string | null;
        };
        Translation: {
            name?: string | null;
            questions?: {
                [key: string]: {
                    text?: string | null;
                    labels?: components["schemas"]["ScaleLabels"] | null;
                    options?: {
                        [key: string]: string | null;
                    } | null;
                    other?: components["schemas"]["OtherChoice"] | null;
                } | null;
            } | null;
            endings?: {
                [key: string]: {
                    text?: string | null;
                    link?: string | null;
                } | null;
            } | null;
            ui?: {
                [key: string]: unknown;
            } | null;
        };
        /** @description A survey as its file has it; left-out members take their defaults. */
        SurveyDefinition: {
            /** @enum {string|null} */
            kind?: "survey" | null;
            /** @description Equal to the id in the path, or left out. */
            survey_id?: components["schemas"]["Id"] | null;
            name: string;
            /** @enum {string|null} */
            status?: "draft" | "test" | "shadow" | "active" | "paused" | "archived" | null;
            test_users?: components["schemas"]["Id"][] | null;
            priority?: number | null;
            tags?: components["schemas"]["Id"][] | null;
            link?: boolean | null;
            link_anonymous?: boolean | null;
            anonymous?: boolean | null;
            retention?: components["schemas"]["Duration"] | null;
            platforms?: components["schemas"]["Id"][] | null;
            locales?: components["schemas"]["Id"][] | null;
            /** @description A range of semantic versions. */
            app_version?: string | null;
            activate?: components["schemas"]["ActivateDefinition"] | null;
            expires_after?: components["schemas"]["Duration"] | null;
            delay?: components["schemas"]["Duration"] | null;
            /** @enum {string|null} */
            on_repeat?: "refresh" | "keep_first" | null;
            cancel_on?: components["schemas"]["EventPattern"][] | null;
            show_on?: components["schemas"]["ShowOn"][] | null;
            schedule?: components["schemas"]["Schedule"] | null;
            spread?: components["schemas"]["Duration"] | null;
            targeting?: components["schemas"]["TargetingRule"] | null;
            /** @enum {string|null} */
            settings_targeting?: "respect" | "ignore" | null;
            frequency?: components["schemas"]["Frequency"] | null;
            limits?: components["schemas"]["Limits"] | null;
            sampling?: components["schemas"]["Sampling"] | null;
            holdout?: components["schemas"]["Holdout"] | null;
            experiment?: components["schemas"]["Experiment"] | null;
            expose?: components["schemas"]["Id"][] | null;
            ui?: {
                [key: string]: unknown;
            } | null;
            locale?: string | null;
            translations?: {
                [key: string]: components["schemas"]["Translation"] | null;
            } | null;
            questions: components["schemas"]["QuestionDefinition"][];
            endings?: components["schemas"]["EndingDefinition"][] | null;
            /** @description Shown, and passed over. */
            version?: unknown;
        };
        /** @description A preset, or a kind with what it needs; nothing waits for more than 24h. */
        RetryPolicy: {
            /** @enum {string|null} */
            preset?: "standard" | "1flow" | null;
            /** @enum {string|null} */
            kind?: "schedule" | "fixed" | "exponential" | null;
            delays?: components["schemas"]["Duration"][] | null;
            interval?: components["schemas"]["Duration"] | null;
            base?: components["schemas"]["Duration"] | null;
            factor?: number | null;
            cap?: components["schemas"]["Duration"] | null;
            jitter?: number | null;
            max_attempts?: number | null;
            max_age?: components["schemas"]["Duration"] | null;
            /** @enum {string|null} */
            success?: "2xx" | "200" | null;
            terminal_status?: number[] | null;
            retry_after?: {
                honour?: boolean | null;
                max?: components["schemas"]["Duration"] | null;
            } | null;
            breaker?: boolean | null;
            connect_timeout?: components["schemas"]["Duration"] | null;
            timeout?: components["schemas"]["Duration"] | null;
        };
        /** @description An endpoint as its file has it; left-out members take their defaults, and a left-out secret is kept. */
        EndpointDefinition: {
            /** @enum {string|null} */
            kind?: "endpoint" | null;
            /** @description Equal to the id in the path, or left out. */
            endpoint_id?: components["schemas"]["Id"] | null;
            url: string;
            /** @enum {string|null} */
            profile?: "standard" | "blitzllama" | "1flow" | "slack" | null;
            /** @description The text itself; files may say {"env": NAME} or {"file": PATH}, which askwhen apply looks up. */
            secret?: string | null;
            enabled?: boolean | null;
            events?: components["schemas"]["Id"][] | null;
            surveys?: components["schemas"]["Id"][] | null;
            where?: {
                survey: components["schemas"]["Id"];
                question_id: components["schemas"]["Id"];
                op: components["schemas"]["Operator"];
                value?: unknown;
            }[] | null;
            test?: boolean | null;
            include_properties?: boolean | null;
            retry?: components["schemas"]["RetryPolicy"] | null;
            /** @description Such as 100/s. */
            rate_limit?: string | null;
            concurrency?: number | null;
            headers?: {
                [key: string]: string;
            } | null;
            tls?: {
                /** @description The text itself; files may say {"env": NAME} or {"file": PATH}, which askwhen apply looks up. */
                ca?: string | null;
                /** @description The text itself; files may say {"env": NAME} or {"file": PATH}, which askwhen apply looks up. */
                client_cert?: string | null;
                /** @description The text itself; files may say {"env": NAME} or {"file": PATH}, which askwhen apply looks up. */
                client_key?: string | null;
            } | null;
            /** @description Shown, and passed over. */
            version?: unknown;
            /** @description Shown, and passed over. */
            state?: unknown;
            /** @description Shown, and passed over. */
            state_reason?: unknown;
            /** @description Shown, and passed over. */
            state_since?: unknown;
            /** @description Shown, and passed over. */
            state_until?: unknown;
            /** @description Shown, and passed over. */
            public_key?: unknown;
        };
        /** @description What is left out takes its default. */
        SettingsDefinition: {
            /** @enum {string|null} */
            kind?: "settings" | null;
            global_cooldown?: components["schemas"]["Duration"] | null;
            max_per_session?: number | null;
            offer_ttl?: components["schemas"]["Duration"] | null;
            allowed_lateness?: components["schemas"]["Duration"] | null;
            erase_keeps_cooldown?: boolean | null;
            targeting?: components["schemas"]["TargetingRule"] | null;
            schedule?: {
                except?: components["schemas"]["TimeSpan"][] | null;
            } | null;
            caps?: components["schemas"]["Cap"][] | null;
            max_expires_after?: components["schemas"]["Duration"] | null;
            offer_known?: components["schemas"]["Duration"] | null;
            session_lifetime?: components["schemas"]["Duration"] | null;
        };
        StoredSurvey: {
            survey_id: string;
            name: string;
            status: string;
            version: number;
            questions: components["schemas"]["Question"][];
        } & {
            [key: string]: unknown;
        };
        StoredEndpoint: {
            endpoint_id: string;
            url: string;
            profile: string;
            enabled: boolean;
            version: number;
            state: string;
            state_reason?: string | null;
            state_since?: string | null;
        } & {
            [key: string]: unknown;
        };
        Settings: {
            /** @enum {string|null} */
            kind?: "settings" | null;
            global_cooldown?: string | null;
            max_per_session?: number | null;
            offer_ttl?: string | null;
            allowed_lateness?: string | null;
        } & {
            [key: string]: unknown;
        };
        Changed: {
            version: number;
            changed: boolean;
            /** @description Of an endpoint, shown once. */
            secret?: string;
        } & {
            [key: string]: unknown;
        };
        /** @description What askwhen config print shows: every layer merged, secrets as (hidden), passwords of URLs as hidden. */
        ProcessConfiguration: {
            data_dir: string;
            http: {
                [key: string]: unknown;
            };
            log: {
                [key: string]: unknown;
            };
        } & {
            [key: string]: unknown;
        };
        /** @description What was changed, or would be. */
        ChangedOrDryRun: {
            version: number;
            changed: boolean;
            /** @description Of an endpoint, shown once. */
            secret?: string;
            /** @description Of a dry run, as all that follows. */
            valid?: boolean;
            created?: boolean;
            current?: {
                [key: string]: unknown;
            } | null;
            body?: {
                [key: string]: unknown;
            } | null;
            warnings?: string[];
            /** @description Of a survey with activate that is there already: how many users have a window of it open, as of a few seconds ago. */
            open_windows?: number;
            /** @description Whether all users were looked at; false: there are at least so many. */
            open_windows_exact?: boolean;
        } & {
            [key: string]: unknown;
        };
        RotateSecret: {
            secret?: string | null;
            overlap?: components["schemas"]["Duration"] | null;
        };
        TestOutcome: {
            delivery_id: string;
            http_status: number | null;
            outcome: string;
            error?: string;
        };
        RecoverRequest: {
            since: components["schemas"]["GivenTime"];
            until?: components["schemas"]["GivenTime"] | null;
            rate?: string | null;
        };
        BackfillRequest: {
            since: components["schemas"]["GivenTime"];
            until?: components["schemas"]["GivenTime"] | null;
            rate?: string | null;
            dry_run?: boolean | null;
        };
        Recovered: {
            recover_id?: string;
            backfill_id?: string;
            count: number;
        } & {
            [key: string]: unknown;
        };
        Count: {
            count: number;
        } & {
            [key: string]: unknown;
        };
        SurveyStats: {
            considered: number;
            offered: number;
            displayed: number;
            dismissed: number;
            answered: number;
            completed: number;
            not_offered: {
                [key: string]: number;
            };
        };
        Delivery: {
            delivery_id: string;
            /** @description The webhook-id. */
            message_id: string;
            endpoint_id: string;
            type: string;
            survey_id?: string | null;
            user_id?: string | null;
            /** @enum {string} */
            status: "pending" | "waiting" | "delivered" | "dead" | "cancelled" | "resent";
            attempt_count: number;
            next_attempt_at?: string | null;
            reason?: string | null;
            created_at: components["schemas"]["Time"];
            /** @description Of a delivery alone, oldest first. */
            attempts?: components["schemas"]["Attempt"][];
            /** @description Of a delivery alone: what every attempt carries, beside the headers of its own. What the endpoint's definition adds is shown as (sealed). */
            headers?: {
                [key: string]: string;
            };
            /** @description Of a delivery alone: the exact text, as the endpoint's definition in force gives it. */
            body?: string | null;
            /**
             * @description Why there is no body.
             * @enum {string}
             */
            body_missing?: "user_erased" | "not_kept" | "endpoint_removed";
        } & {
            [key: string]: unknown;
        };
        Attempt: {
            attempt: number;
            started_at: components["schemas"]["Time"];
            duration_ms: number;
            http_status: number | null;
            outcome: string;
            error?: string;
            response?: string;
            /** @description Those of the endpoint's profile as they were sent, the signature among them; left out where nothing was signed, and of attempts by versions that did not note them. */
            headers?: {
                [key: string]: string;
            };
            /** @description Of the body that was sent, in hex. */
            body_sha256?: string;
            /** @description Whether that was the body that is shown: false when the endpoint was defined otherwise then. */
            same_body?: boolean;
        } & {
            [key: string]: unknown;
        };
        Resent: {
            delivery_id: string;
            message_id: string;
        } & {
            [key: string]: unknown;
        };
        Response: {
            response_id: string;
            group_id?: string;
            survey_id: string;
            survey_name?: string;
            survey_version: number;
            project?: string;
            user_id: string;
            user_attributes?: {
                [key: string]: unknown;
            };
            platform?: string | null;
            locale?: string | null;
            trigger?: string | null;
            trigger_properties?: {
                [key: string]: unknown;
            } | null;
            activation?: components["schemas"]["Activation"] | null;
            answers: components["schemas"]["StoredAnswer"][];
            completed: boolean;
            link?: boolean;
            test?: boolean;
            created_at: components["schemas"]["Time"];
            updated_at?: components["schemas"]["Time"];
        } & {
            [key: string]: unknown;
        };
        Snapshots: {
            snapshots: {
                [key: string]: unknown;
            }[];
            ends?: {
                [key: string]: number;
            };
        };
        SkipRequest: {
            /**
             * @description The record's topic; left out, the journal.
             * @enum {string}
             */
            topic?: "events" | "deliveries" | "attempts" | "deliveries.retry.1m" | "deliveries.retry.1h" | "deliveries.retry.1d" | "dead";
            offset: number;
        };
        Skipped: {
            topic: string;
            partition: number;
            offset: number;
            /** @enum {string} */
            status: "accepted";
        };
        ClockAdvance: {
            advance: components["schemas"]["Duration"];
        };
        ClockNow: {
            now: components["schemas"]["Time"];
        };
        Alive: {
            alive: boolean;
        };
        Readiness: {
            ready: boolean;
            reasons: string[];
            waiting_requests?: number;
            partitions?: number;
            owned?: unknown;
            version?: string;
        } & {
            [key: string]: unknown;
        };
        Problem: {
            type: string;
            title: string;
            status: number;
            code: string;
            detail?: string;
            request_id?: string;
            byte_offset?: number;
            event_id?: string;
            errors?: {
                code: string;
                pointer: string;
                detail: string;
            }[];
        } & {
            [key: string]: unknown;
        };
        ResponseWebhook: {
            /** @enum {string} */
            type: "response.answered" | "response.completed";
            timestamp: components["schemas"]["Time"];
            data: components["schemas"]["Response"];
        };
        OfferWebhook: {
            /** @enum {string} */
            type: "survey.displayed" | "survey.dismissed";
            timestamp: components["schemas"]["Time"];
            data: {
                [key: string]: unknown;
            };
        };
        ClosedWebhook: {
            /** @enum {string} */
            type: "survey.closed";
            timestamp: components["schemas"]["Time"];
            data: {
                survey_id: string;
                /** @enum {string} */
                reason: "quota_full" | "ended" | "archived";
                completed: number;
                at: components["schemas"]["Time"];
            };
        };
        ErasureWebhook: {
            /** @enum {string} */
            type: "user.erased";
            timestamp: components["schemas"]["Time"];
            data: {
                user_id: string;
                project: string;
                erased_at: components["schemas"]["Time"];
            };
        };
    };
    responses: never;
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}
