"""The explorer: what is in the store of runs, and what a checkpoint with other signals would become.

Start it with `streamlit run app.py`; the workspace is $FORERUN_HOME, else ./forerun.
"""

import streamlit as st

st.set_page_config(page_title="Forerun", layout="wide")
st.navigation(
    [
        st.Page("views/overview.py", title="Overview", default=True),
        st.Page("views/what_if.py", title="What if", url_path="what-if"),
    ]
).run()
