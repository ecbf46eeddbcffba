/*! askwhen, Apache-2.0 */
import{createElement as s,useEffect as n,useRef as c}from"react";import t from"askwhen-browser";var o=e=>n(()=>t.init(e),[e.key,e.user,e.signature]),g=(e,r)=>n(()=>{e&&t.trigger(e,r)},[e]),a=({trigger:e,properties:r,...i})=>{let u=c(null);return n(()=>{t.trigger(e,r,u.current)},[e]),s("div",{ref:u,...i})};export{a as InlineSurvey,o as useAskwhen,g as useTrigger};
