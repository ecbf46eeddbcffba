/** Style sheets are built in as minified text. */
declare module '*.css' {
  const text: string;
  export default text;
}
